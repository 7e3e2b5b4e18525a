//! A client in TypeScript: openapi-generator makes it from a document, and TypeScript compiles what uses it.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::npm;
use crate::packages::{self, JAVA, MAVEN, java, maven, quietly};
use crate::steps::{Cargo, Failed, missing};

/// Where the generator and TypeScript are pinned.
const PINNED: &str = "xtask/api";
/// What is not checked without them.
const UNCHECKED: &str = "no client in TypeScript is generated from /openapi.json";
/// How strict TypeScript is, and for which node it compiles.
const COMPILE: [&str; 5] = ["--strict", "--target", "es2022", "--module", "nodenext"];

/// The programs.
pub(crate) struct TypeScript {
    java: PathBuf,
    generator: PathBuf,
    compiler: PathBuf,
}

impl TypeScript {
    /// Those below the target folder, installed if they are not; `None` on a developer's machine without Java, Maven or npm.
    ///
    /// # Errors
    /// On CI without one of them, and if something cannot be fetched.
    pub(crate) fn installed(cargo: &Cargo) -> Result<Option<TypeScript>, Failed> {
        let (pinned, folder) = (cargo.root().join(PINNED), cargo.target()?.join("api").join("typescript"));
        let Some(programs) = npm::installed(&pinned, &folder.join("npm"), UNCHECKED)? else { return Ok(None) };
        let java = match packages::system(&[JAVA, MAVEN]).and_then(|()| java(17, 25)) {
            Ok(java) => java,
            Err(why) => return missing(&format!("{UNCHECKED}: {}", why.sentence)).map(|()| None),
        };
        let generator = generator(&pinned.join("pom.xml"), &folder.join("generator"))?;
        Ok(Some(TypeScript { java, generator, compiler: programs.join("tsc") }))
    }

    /// Makes a client from a document, and compiles a program that imports it as `./jangteo`; says where the program is then.
    ///
    /// # Errors
    /// If the generator refuses the document, or the compiler what it made or the program.
    pub(crate) fn compile(&self, document: &Path, source: &Path, folder: &Path) -> Result<PathBuf, Failed> {
        let mut generate = Command::new(&self.java);
        generate.arg("-jar").arg(&self.generator).args(["generate", "-g", "typescript-fetch"]);
        generate.arg("-i").arg(document).arg("-o").arg(folder.join("jangteo"));
        quietly("openapi-generator", &mut generate)?;
        let program = folder.join("client.ts");
        fs::copy(source, &program)
            .map_err(|why| Failed::new(format!("{} cannot be copied: {why}", source.display())))?;
        let mut compiler = Command::new(&self.compiler);
        compiler.current_dir(folder).args(COMPILE).arg(&program);
        quietly("tsc", &mut compiler)?;
        Ok(program.with_extension("js"))
    }
}

/// The generator's archive, fetched unless it is there.
fn generator(pom: &Path, folder: &Path) -> Result<PathBuf, Failed> {
    let broken = |file: &Path, why| Failed::new(format!("{}: {why}", file.display()));
    let (archive, mark) = (folder.join("openapi-generator-cli.jar"), folder.join("installed.txt"));
    let wanted = fs::read_to_string(pom).map_err(|why| broken(pom, why))?;
    if fs::read_to_string(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(archive);
    }
    println!("openapi-generator is fetched into {}", folder.display());
    fs::create_dir_all(folder).map_err(|why| broken(folder, why))?;
    maven(pom, folder, &[])?;
    // Last: half an installation has no mark.
    fs::write(&mark, wanted).map_err(|why| broken(&mark, why))?;
    Ok(archive)
}
