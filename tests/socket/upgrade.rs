//! Files that released versions wrote: each is opened by this one and answers as it did.

use crate::process::Process;
use healthd::serve::proto::v1;
use std::collections::BTreeMap;
use std::path::Path;

/// A database for each released version, written by it through `tests/data/write`: a counter and a rolling
/// metric of component `kept`, in two flushes.
#[tokio::test]
async fn a_file_of_every_released_version_is_opened_and_answers_as_it_did() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data");
    let files = std::fs::read_dir(data).unwrap().map(|file| file.unwrap().path());
    let files: Vec<_> = files.filter(|path| path.extension().is_some_and(|e| e == "db")).collect();
    assert!(!files.is_empty(), "a version is released with a file that it wrote");
    for file in files {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("health.db");
        std::fs::copy(&file, &path).unwrap();
        let process = Process::start(&path, &["--retention=1s:100y"]).await;
        let mut client = process.client().await;
        let expected = [("counter", 30.0), ("rolling", 0.25)];
        let expected: BTreeMap<_, _> =
            expected.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        assert_eq!(client.current("kept").await, expected, "{}", file.display());
        // 2026-01-01, where the samples are.
        let start = 1_767_225_600_000;
        let request = v1::ExtractRequest {
            component: "kept".to_owned(),
            start: Some(crate::support::time(start)),
            end: Some(crate::support::time(start + 10_000)),
            step: Some(prost_types::Duration { seconds: 1, nanos: 0 }),
            ..Default::default()
        };
        let (mut series, _) = client.extract(request).await.unwrap();
        series.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(series[0].time_ms, [start, start + 5000]);
        assert_eq!(series[0].value, [20.0, 10.0]);
        assert_eq!(series[0].labels["zone"], "zürich");
        assert_eq!((series[1].count[0], series[1].min[0], series[1].max[0]), (3, -1.5, 2.0));
        assert!(process.terminate().await.0.success());
    }
}
