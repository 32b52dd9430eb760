//! `obleth usage`: whom it asks, with what, and how it ends when it is told no.

use std::process::{Command, Output};

use super::{
    process::{ADMIN_TOKEN, Setup},
    world::Nobody,
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
