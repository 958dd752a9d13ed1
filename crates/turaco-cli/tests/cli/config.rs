//! Command line over environment over config file over default.

use crate::support::{Home, run};

#[test]
fn the_command_line_wins_over_the_environment_and_that_over_the_file() {
    let home = Home::new();
    for name in ["from-line", "from-environment", "from-file", "from-table"] {
        std::fs::create_dir(home.path(name)).unwrap();
    }
    home.write(
        "given.toml",
        "model = 'from-file'\n[models]\nmodel = 'from-table'\n",
    );
    home.write(".config/turaco/config.toml", "model = 'from-file'\n");
    let path = |args: &[&str], environment: Option<&str>| {
        let mut command = home.command(args);
        command.envs(environment.map(|value| ("TURACO_MODEL", value)));
        run(&mut command).stdout
    };
    let line = ["models", "path"];
    assert_eq!(path(&line, None), "from-file\n");
    assert_eq!(path(&line, Some("from-environment")), "from-environment\n");
    assert_eq!(path(&line, Some("")), "from-file\n");
    assert_eq!(
        path(
            &["models", "path", "-m", "from-line"],
            Some("from-environment")
        ),
        "from-line\n"
    );
    assert_eq!(
        path(&["-m", "from-line", "models", "path"], None),
        "from-line\n"
    );
    assert_eq!(
        path(&["--config", "given.toml", "models", "path"], None),
        "from-table\n"
    );
    std::fs::remove_file(home.path(".config/turaco/config.toml")).unwrap();
    home.run(line).fails(3, &["tiny.en"]);
}

#[test]
fn wrong_values_name_where_they_come_from() {
    let home = Home::new();
    home.write("bad.toml", "threads = 'many'\n");
    home.run(["--config=bad.toml", "transcribe", "a.wav"])
        .fails(2, &["invalid value `many` for `--threads`", "[bad.toml]"]);
    home.write("unknown.toml", "beam_sise = 1\n");
    home.run(["--config=unknown.toml", "transcribe", "a.wav"])
        .fails(2, &["unknown key `beam_sise` [unknown.toml]"]);
    home.run(["--config=gone.toml", "transcribe", "a.wav"])
        .fails(2, &["cannot read config file [gone.toml]"]);
    run(home
        .command(["transcribe", "a.wav"])
        .env("TURACO_THREADS", "many"))
    .fails(
        2,
        &["invalid value `many` for `--threads`", "TURACO_THREADS"],
    );
    for (name, value, option) in [
        ("TURACO_COMPUTE_TYPE", "int3", "--compute-type"),
        ("TURACO_DEVICE", "abacus", "--device"),
        ("TURACO_OFFLINE", "perhaps", "--offline"),
    ] {
        run(home.command(["transcribe", "a.wav"]).env(name, value)).fails(
            2,
            &[&format!("invalid value `{value}` for `{option}`"), name],
        );
    }
}

#[test]
fn a_line_of_its_own_is_not_contradicted_by_the_file() {
    let home = Home::new();
    home.write(
        "c.toml",
        "timestamps = true\nlanguage = 'de'\nverbose = 2\n",
    );
    // Exit 4: understood, the input is missing.
    home.run([
        "--config=c.toml",
        "transcribe",
        "--no-timestamps",
        "--languages=en,fr",
        "-q",
        "gone.wav",
    ])
    .fails(4, &["gone.wav"]);
}
