//! `obleth usage`: whom it asks, with what, what it prints, and how it ends when it is told no.

use std::process::{Command, Output};

use serde_json::json;

use super::{
    process::{ADMIN_TOKEN, Setup, until},
    world::{Nobody, World},
};

/// The command in an empty environment, on an empty folder.
struct Shell {
    home: tempfile::TempDir,
}

impl Shell {
    fn new() -> Self {
        Self { home: tempfile::tempdir().unwrap() }
    }

    fn usage(&self, arguments: &[&str], environment: &[(&str, &str)]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_obleth"))
            .arg("usage")
            .args(arguments)
            .env_clear()
            .envs(environment.iter().copied())
            .current_dir(self.home.path())
            .output()
            .unwrap()
    }

    /// What a run against this gateway prints.
    #[track_caller]
    fn printed(&self, world: &World, arguments: &[&str]) -> String {
        let admin = format!("http://{}", world.gateway.admin);
        let arguments = [&["--admin", &admin], arguments].concat();
        let output = self.usage(&arguments, &[("OBLETH_ADMIN_TOKEN", ADMIN_TOKEN)]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{arguments:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    /// A run that must fail with this code: its one line.
    #[track_caller]
    fn refused(&self, code: i32, arguments: &[&str], environment: &[(&str, &str)]) -> String {
        let output = self.usage(arguments, environment);
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{said}");
        assert!(output.stdout.is_empty(), "{arguments:?}");
        assert!(!said.contains(ADMIN_TOKEN) && !said.contains("another-token"), "{said}");
        said
    }
}

#[test]
fn without_a_token_or_an_address_that_can_be_asked_it_says_what_to_give() {
    let shell = Shell::new();
    let token = ("OBLETH_ADMIN_TOKEN", ADMIN_TOKEN);
    let said = shell.refused(77, &[], &[]);
    assert!(said.contains("OBLETH_ADMIN_TOKEN") && said.contains("--data-dir"), "{said}");
    assert!(shell.refused(64, &["--admin", "https://h"], &[token]).contains("http://"));
    assert!(shell.refused(64, &[], &[token, ("OBLETH_ADMIN_LISTEN", "127.0.0.1:0")]).contains("--admin"));
    assert!(shell.refused(64, &[], &[token, ("OBLETH_ADMIN_LISTEN", "x")]).contains("OBLETH_ADMIN_LISTEN"));
    assert!(shell.refused(64, &["--csv", "--json"], &[token]).contains("--json"));
    let nobody = Nobody::new();
    let (url, listen) = (format!("http://{}", nobody.addr), nobody.addr.to_string());
    assert!(shell.refused(69, &["--admin", &url], &[token]).contains(&url));
    assert!(shell.refused(69, &[], &[token, ("OBLETH_ADMIN_LISTEN", &listen)]).contains(&listen));
}

#[test]
fn the_token_is_the_environments_or_else_the_data_folders_and_a_wrong_one_is_77() {
    let shell = Shell::new();
    let gateway = Setup::new().start();
    let admin = format!("http://{}", gateway.admin);
    let wrong = ("OBLETH_ADMIN_TOKEN", "another-token-0123456789");
    assert!(shell.refused(77, &["--admin", &admin], &[wrong]).contains("401"));
    let folder = shell.home.path().join("obleth-data");
    std::fs::create_dir(&folder).unwrap();
    let file = folder.join("admin-token");
    std::fs::write(&file, "another-token-0123456789\n").unwrap();
    assert!(shell.refused(77, &["--admin", &admin], &[]).contains("chmod 600"), "others can read it");
    let private = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, private).unwrap();
    assert!(shell.refused(77, &["--admin", &admin], &[]).contains("401"));
    std::fs::write(&file, ADMIN_TOKEN).unwrap();
    let right = shell.usage(&["--admin", &admin], &[]);
    assert_ne!(right.status.code(), Some(77), "{}", String::from_utf8_lossy(&right.stderr));
}

#[test]
fn what_it_prints_are_the_reports_own_numbers() {
    let (shell, world) = (Shell::new(), World::start());
    let prices = json!({"prices": {"input_micro_usd": 1_000_000, "output_micro_usd": 2_000_000}});
    world.gateway.patch(&format!("/models/{}", world.model_id), prices);
    for at in 0..3 {
        let request = world.chat("").header("x-request-id", format!("=1+{at}"));
        assert_eq!(world.ask(&request).status, 200);
    }
    until("all of them are in the ledger", || world.rows().len() == 3);
    let truth = world.sim();
    let (input, output) = (truth.prompt_tokens, truth.completion_tokens);
    let cost = input + 2 * output;

    let table = shell.printed(&world, &[]);
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    let dollars = format!("{}.{:06}", cost / 1_000_000, cost % 1_000_000);
    let (input, output, cost) = (input.to_string(), output.to_string(), cost.to_string());
    assert_eq!(words[1], ["acme", "3", &input, "0", &output, &dollars, "0", &world.tenant_id], "{table}");
    assert_eq!(words[2], ["total", "3", &input, "0", &output, &dollars, "0"], "{table}");

    let csv = shell.printed(&world, &["--by", "model,outcome", "--csv"]);
    let lines: Vec<&str> = csv.lines().collect();
    assert!(lines[0].starts_with("model,outcome,requests,input_tokens,"), "{csv}");
    assert_eq!(lines[1..], [format!("tiny,ok,3,{input},0,{output},{cost},0")], "{csv}");

    let rows = shell.printed(&world, &["--csv"]);
    assert_eq!(rows.lines().count(), 4, "{rows}");
    assert!((0..3).all(|at| rows.contains(&format!(",'=1+{at},"))), "{rows}");
    let over = ["--from", "2026-11-01", "--to", "2026-11-02T00:00:00+01:00", "--json"];
    let raw: serde_json::Value = serde_json::from_str(&shell.printed(&world, &over)).unwrap();
    let same = "/usage?from=2026-11-01&to=2026-11-02T00:00:00%2B01:00&by=tenant";
    assert_eq!(raw, world.gateway.get(same).json());

    let admin = format!("http://{}", world.gateway.admin);
    let token = ("OBLETH_ADMIN_TOKEN", ADMIN_TOKEN);
    for (wrong, param) in [("--tz=Mars", "`tz`"), ("--by=colour", "`by`"), ("--from=2999-01-01", "`from`")] {
        let said = shell.refused(64, &["--admin", &admin, wrong], &[token]);
        assert!(said.contains("400") && said.contains(param), "{said}");
    }
}
