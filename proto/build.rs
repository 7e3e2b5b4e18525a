//! Compiles the .proto files without protoc, and keeps the descriptor set for the gateway.
use std::{env, error::Error, fs, path::Path};

const FILES: [&str; 8] = [
    "shop/inventory/v1/inventory.proto",
    "shop/payment/v1/payment.proto",
    "shop/shipping/v1/shipping.proto",
    "shop/order/v1/order.proto",
    "shop/order/v1/sagas.proto",
    "shop/messaging/v1/messaging.proto",
    "shop/auditor/v1/auditor.proto",
    "shop/events/v1/events.proto",
];

#[expect(clippy::disallowed_methods, reason = "cargo tells a build script where to write by the environment")]
fn main() -> Result<(), Box<dyn Error>> {
    for folder in ["shop", "google"] {
        println!("cargo:rerun-if-changed={folder}");
    }
    let mut compiler = protox::Compiler::new(["."])?;
    compiler.include_imports(true).include_source_info(true).open_files(FILES)?;
    // Danger: not `file_descriptor_set()` here: prost's own types drop the options of google.api.http on the way.
    let descriptors = compiler.encode_file_descriptor_set();
    fs::write(Path::new(&env::var("OUT_DIR")?).join("shop.bin"), descriptors)?;
    let mut ours = compiler.file_descriptor_set();
    // The options of google.api and shop.http are read from the descriptors, not from generated code.
    ours.file.retain(|file| !["google.api", "shop.http.v1"].contains(&file.package()));
    let facts = ours.file.iter().filter(|file| file.package() == "shop.events.v1").flat_map(|file| &file.message_type);
    let kinds: Vec<_> = facts.map(|message| format!("shop.events.v1.{}", message.name())).collect();
    let kinds =
        format!("/// The full names of all messages of this package.\npub const KINDS: &[&str] = &{kinds:?};\n");
    fs::write(Path::new(&env::var("OUT_DIR")?).join("kinds.rs"), kinds)?;
    let mut config = tonic_prost_build::Config::new();
    config.enable_type_names();
    tonic_prost_build::configure().build_transport(false).compile_fds_with_config(ours, config)?;
    Ok(())
}
