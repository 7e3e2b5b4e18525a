//! Holds the REST interface to its document, `/openapi.json`: clients that two generators make from it shop, schemathesis tries
//! every operation, and documents that are not true are seen to be found out.
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::python::Python;
use crate::shop::Shop;
use crate::steps::{Cargo, Failed, judge, said, timed, within};
use crate::typescript::TypeScript;

/// The longest that a program may take. Some seconds are usual for the client, most of a minute for schemathesis; a machine that
/// is busy otherwise takes three times as long.
const PATIENCE: Duration = Duration::from_secs(600);

/// A document that is not true: the operation to try, what the document says, what is put in its place, and how schemathesis
/// calls what it then finds.
struct Untrue {
    operation: &'static str,
    says: &'static str,
    instead: &'static str,
    found: &'static str,
}

const UNTRUE: [Untrue; 4] = [
    Untrue {
        operation: "GetProduct",
        says: r##""400":{"$ref":"#/components/responses/BadRequest"},"##,
        instead: "",
        found: "Undocumented status code",
    },
    Untrue {
        operation: "GetProduct",
        says: r#""required":["sku","name_ko","#,
        instead: r#""required":["sku","nowhere","name_ko","#,
        found: "Response violates schema",
    },
    Untrue {
        operation: "WatchOrder",
        says: r#""required":["event_id","#,
        instead: r#""required":["event_id","nowhere","#,
        found: "SSE event payload violates content schema",
    },
    Untrue {
        operation: "ListOrders",
        says: r#""maximum":100,"#,
        instead: r#""maximum":1000,"#,
        found: "Schema-valid request rejected",
    },
];

/// Generates clients and shops with them, tries every operation, and sees that an untrue document is found out. All on one data
/// folder, so that the shop is also opened on what the clients left.
pub(crate) fn check(cargo: &Cargo) -> Result<(), Failed> {
    println!("==> the REST interface");
    let typescript = TypeScript::installed(cargo)?;
    let Some(python) = Python::installed(cargo)? else { return Ok(()) };
    let (outcome, took) = timed(|| {
        let stage = Stage { python, ours: cargo.root().join("xtask/api"), folder: cargo.target()?.join("api") };
        let place = stage.folder.join("shop");
        empty(&place)?;
        let (data, log) = (place.join("data"), place.join("log"));
        let shop = Shop::open(cargo, &data, &log)?;
        stage.shop_with_a_client_in_python(&shop)?;
        typescript.iter().try_for_each(|typescript| stage.shop_with_a_client_in_typescript(&shop, typescript))?;
        shop.close()?;
        stage.run("dead_letters.py", stage.script("dead_letters.py").arg(&data))?;
        let shop = Shop::open(cargo, &data, &log)?;
        stage.try_everything(&shop)?;
        UNTRUE.iter().try_for_each(|untrue| stage.finds_out(untrue, &shop))?;
        shop.close()
    });
    outcome?;
    println!(
        "==> the REST interface: as /openapi.json says; what is untrue is found out: {:.1} s\n",
        took.as_secs_f64()
    );
    Ok(())
}

struct Stage {
    python: Python,
    /// Where the scripts and settings are.
    ours: PathBuf,
    /// Where everything goes that is made.
    folder: PathBuf,
}

impl Stage {
    fn shop_with_a_client_in_typescript(&self, shop: &Shop, typescript: &TypeScript) -> Result<(), Failed> {
        let (document, package) = (self.folder.join("openapi.json"), self.folder.join("typescript/client"));
        write(&document, &shop.get("/openapi.json")?)?;
        empty(&package)?;
        let program = typescript.compile(&document, &self.ours.join("client.ts"), &package)?;
        self.run("client.ts", Command::new("node").arg(program).arg(format!("http://{}", shop.address)))
    }

    fn shop_with_a_client_in_python(&self, shop: &Shop) -> Result<(), Failed> {
        let (document, package) = (self.folder.join("openapi.json"), self.folder.join("client"));
        write(&document, &shop.get("/openapi.json")?)?;
        empty(&package)?;
        let mut generate = self.python.command("openapi-python-client");
        generate.args(["generate", "--meta", "none", "--fail-on-warning"]);
        generate.arg("--path").arg(&document).arg("--config").arg(self.ours.join("generator.yaml"));
        self.run("openapi-python-client", generate.arg("--output-path").arg(package.join("jangteo")))?;
        let mut client = self.script("client.py");
        self.run("client.py", client.env("PYTHONPATH", &package).arg(format!("http://{}", shop.address)))
    }

    /// One of our own scripts.
    fn script(&self, name: &str) -> Command {
        let mut command = self.python.command("python");
        command.arg(self.ours.join(name));
        command
    }

    fn try_everything(&self, shop: &Shop) -> Result<(), Failed> {
        let document = format!("http://{}/openapi.json", shop.address);
        self.run("schemathesis", &mut self.schemathesis(shop, &document))
    }

    /// Schemathesis on a document, which is an address or a file.
    fn schemathesis(&self, shop: &Shop, document: &str) -> Command {
        let (shop, hooks) = (format!("http://{}", shop.address), self.ours.join("hooks.py"));
        let mut command = self.python.command("schemathesis");
        command.env("SHOP", &shop).env("SCHEMATHESIS_HOOKS", hooks);
        command.arg("--config-file").arg(self.ours.join("schemathesis.toml"));
        command.args(["run", document, "--url", &shop, "--no-color"]);
        command
    }

    /// Tries one operation by an untrue document, which must fail for that reason.
    fn finds_out(&self, untrue: &Untrue, shop: &Shop) -> Result<(), Failed> {
        let (document, file) = (shop.get("/openapi.json")?, self.folder.join("untrue.json"));
        if !document.contains(untrue.says) {
            let sentence = format!("/openapi.json does not say {}, so it cannot be said otherwise", untrue.says);
            return Err(Failed::new(sentence));
        }
        write(&file, &document.replace(untrue.says, untrue.instead))?;
        let mut command = self.schemathesis(shop, &file.display().to_string());
        command.args(["--include-operation-id", untrue.operation, "--phases", "coverage"]);
        let output = command.current_dir(&self.folder).output();
        let output = output.map_err(|why| Failed::new(format!("schemathesis cannot be started: {why}")))?;
        if output.status.success() || !said(&output).contains(untrue.found) {
            let sentence = format!("{:?} instead of {:?} was not found out", untrue.instead, untrue.says);
            return Err(Failed::new(format!("{sentence}; schemathesis said: {}", said(&output))));
        }
        Ok(())
    }

    fn run(&self, name: &str, command: &mut Command) -> Result<(), Failed> {
        let child = command.current_dir(&self.folder).spawn();
        judge(name, child.and_then(|mut child| within(PATIENCE, &mut child)))
    }
}

fn write(file: &Path, text: &str) -> Result<(), Failed> {
    fs::write(file, text).map_err(|why| Failed::new(format!("{} cannot be written: {why}", file.display())))
}

fn empty(folder: &Path) -> Result<(), Failed> {
    let gone = if folder.exists() { fs::remove_dir_all(folder) } else { Ok(()) };
    let made = gone.and_then(|()| fs::create_dir_all(folder));
    made.map_err(|why| Failed::new(format!("{} cannot be made anew: {why}", folder.display())))
}
