//! Takes the files of Swagger UI that the API page needs out of the archive that its crate carries.
use std::io::{Cursor, Read};
use std::path::Path;
use std::{env, error::Error, fs};

use utoipa_swagger_ui_vendored::SWAGGER_UI_VENDORED;

const FILES: [&str; 2] = ["swagger-ui.css", "swagger-ui-bundle.js"];

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script where to write by the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    let mut archive = zip::ZipArchive::new(Cursor::new(SWAGGER_UI_VENDORED))?;
    for wanted in FILES {
        let end = format!("/dist/{wanted}");
        let name = archive.file_names().find(|name| name.ends_with(&end)).map(str::to_owned);
        let mut bytes = vec![];
        archive.by_name(&name.ok_or(format!("the archive has no {wanted}"))?)?.read_to_end(&mut bytes)?;
        fs::write(Path::new(&env::var("OUT_DIR")?).join(wanted), bytes)?;
    }
    Ok(())
}
