//! Before Ollama: several models, one, none, and no server.

use super::fake_ollama::{FakeOllama, setup};
use super::program::free_port;
use super::sidecar::{Plan, Sidecar};
use super::{models, ran_in, written};

const GIB: u64 = 1 << 30;

async fn server(models: &[(&str, u64)]) -> FakeOllama {
    let model = |(name, size): &(&str, u64)| setup::Model { size: *size, ..setup::Model::new(name) };
    FakeOllama::start(setup::Config::new(models.iter().map(model).collect())).await
}

#[tokio::test]
async fn a_ladder_is_written_of_what_fits_and_the_rest_is_explained() {
    let sizes = [
        ("qwen3:14b", 9 * GIB),
        ("copy:14b", 9 * GIB),
        ("qwen3:4b", 3 * GIB),
        ("tiny: #'é\"", GIB / 2),
        ("huge:70b", 40 * GIB),
    ];
    let server = server(&sizes).await;
    let folder = tempfile::tempdir().unwrap();
    let made = ran_in(folder.path(), &["init", "--server", &server.url("")]).await;
    assert_eq!((made.code, made.stdout.as_str()), (Some(0), ""), "{made:#?}");
    for words in ["policy.yaml is written: large (", "tierkeeper run --policy policy.yaml"] {
        assert!(made.stderr.contains(words), "{words}: {}", made.stderr);
    }
    let policy = written(folder.path(), "policy.yaml").await;
    assert_eq!(models(&policy), ["copy:14b", "qwen3:4b", "tiny: #'é\""]);
    let text = std::fs::read_to_string(folder.path().join("policy.yaml")).unwrap();
    for words in [
        "#   huge:70b: it may take",
        "#   qwen3:14b: it is nearly as large as copy:14b",
        "a machine with 16 GiB of memory and",
        "# Ollama 0.0.0 at http://127.0.0.1:",
    ] {
        assert!(text.contains(words), "{words}: {text}");
    }
    assert_eq!(server.loads(), [], "nothing is loaded for it");
    assert!(!folder.path().join(".local").exists(), "no store is made for it");
    let plan = Plan { policy: Some(text), pretend_mib: Some(64 << 10), ..Plan::ollama(server.url(""), &[]) };
    let mut sidecar = Sidecar::start(&plan);
    sidecar.until_serves("large").await;
    sidecar.stop().await;
}

#[tokio::test]
async fn a_file_that_is_there_is_left_as_it_is_unless_it_is_told_to() {
    let server = server(&[("one", GIB)]).await;
    let folder = tempfile::tempdir().unwrap();
    let url = server.url("");
    let file = folder.path().join("mine.yaml");
    std::fs::write(&file, "# mine\n").unwrap();
    let refused = ran_in(folder.path(), &["init", "-o", "mine.yaml", "--server", &url]).await;
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused.stderr.contains("`mine.yaml` is there already") && refused.stderr.contains("--force"),
        "{refused:#?}"
    );
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "# mine\n");
    let forced = ran_in(folder.path(), &["init", "-o", "mine.yaml", "--force", "--server", &url]).await;
    assert_eq!(forced.code, Some(0), "{forced:#?}");
    assert_eq!(models(&written(folder.path(), "mine.yaml").await), ["one:latest"]);
    let printed = ran_in(folder.path(), &["init", "-o", "-", "--server", &url]).await;
    assert_eq!(printed.code, Some(0), "{printed:#?}");
    assert!(printed.stdout.contains("version: 1") && !folder.path().join("policy.yaml").exists(), "{printed:#?}");
}

#[tokio::test]
async fn without_a_model_or_a_server_it_says_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let none = server(&[]).await;
    let refused = ran_in(folder.path(), &["init", "--server", &none.url("")]).await;
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(refused.stderr.contains("has no model\nhelp: ollama pull qwen3:4b"), "{}", refused.stderr);
    let huge = server(&[("huge", 40 * GIB)]).await;
    let refused = ran_in(folder.path(), &["init", "--server", &huge.url("")]).await;
    assert_eq!(refused.code, Some(1), "{refused:#?}");
    assert!(
        refused.stderr.contains("huge:latest: it may take") && refused.stderr.contains("ollama pull"),
        "{}",
        refused.stderr
    );
    let nobody = format!("http://127.0.0.1:{}", free_port());
    let lost = ran_in(folder.path(), &["init", "--server", &nobody]).await;
    assert_eq!(lost.code, Some(69), "{lost:#?}");
    assert!(lost.stderr.contains(&nobody) && lost.stderr.contains("help: start the model server"), "{}", lost.stderr);
    assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0, "nothing is written");
}
