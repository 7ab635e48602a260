//! What is typed, and what it means.

use super::*;

fn read(line: &str) -> Result<Cli, clap::Error> {
    Cli::read(std::iter::once("tollgate").chain(line.split_whitespace()))
}

#[test]
fn the_definitions_hold_together() {
    Cli::command().debug_assert();
}

#[test]
fn command_lines_are_read_or_refused() {
    for (line, accepted) in [
        ("up", true),
        ("up --json --data d --nats-port 0 --listen 127.0.0.1:0 --config c.toml", true),
        ("up --server nats://x:4222,nats://y:4222", true),
        ("up --nats-port 70000", false),
        ("up --nats-store-max 20GB", true),
        ("up --nats-store-max 0GB", false),
        ("up --nats-store-max much", false),
        ("up --nats-store-max GB", false),
        ("up --nats-store-max 10€", false),
        ("run router --server nats://x --config c.toml --listen 127.0.0.1:0", true),
        ("run worker -s nats://x --creds c --tlsca a --tlscert b --tlskey c", true),
        ("run ledger --data d --user u --password p", true),
        ("run ask --token t --log debug --log-format json", true),
        ("run", false),
        ("run cook", false),
        ("simulator --listen 127.0.0.1:0 --first-token-ms 5 --per-token-ms 0.5 --fail-rate 0.1", true),
        ("simulator --fail-status 503 --seed 7 --json", true),
        ("simulator --fail-rate often", false),
        ("ledger rebuild --data d", true),
        ("ledger", false),
        ("", false),
        ("no-such-command", false),
    ] {
        assert_eq!(read(line).is_ok(), accepted, "tollgate {line}");
    }
}

#[test]
fn the_servers_options_mean_what_they_mean_to_nats() {
    let cli = read("run router -s nats://x --user u --password p --tlsca ca.pem").expect("a command line");
    let settings = cli.global.connect.settings("tollgate-router");
    assert_eq!(settings.server, "nats://x");
    assert_eq!(settings.name, "tollgate-router");
    assert_eq!(settings.user, Some(("u".into(), "p".into())));
    assert_eq!(settings.tls_ca, Some("ca.pem".into()));
    assert_eq!(settings.token, None);
}

#[test]
fn a_variable_set_to_nothing_is_not_set() {
    let cli = Cli::read(["tollgate", "up", "--server", " ", "--creds", "", "--token", ""]).expect("a line");
    let settings = cli.global.connect.settings("x");
    assert_eq!(settings.server, NATS_URL);
    assert!(settings.creds.is_none() && settings.token.is_none());
}

#[test]
fn up_knows_whether_the_server_was_typed() {
    let typed = |line: &str| match read(line).expect("a command line").command {
        Command::Up(up) => up.server_typed,
        other => panic!("{other:?}"),
    };
    assert!(typed("up --server nats://x"));
    assert!(typed("--server nats://x up"), "options may stand before the command");
    assert!(typed("up -s nats://x --nats-port 0"), "refused later, with words");
    assert!(!typed("up"));
}

#[test]
fn passwords_do_not_show_themselves() {
    let cli = read("run ask --user u --password sesame --token sesame -s nats://u:sesame@x").expect("a line");
    assert!(!format!("{cli:?}").contains("sesame"));
}
