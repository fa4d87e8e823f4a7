//! Rules through their states, and a file that changes.

use super::super::bed::{Bed, Given, Kept};
use super::*;
use crate::state::Value;

const NOW: Timestamp = Timestamp::from_ms(1_767_225_600_000);

fn later(seconds: i64) -> Timestamp {
    Timestamp::from_ms(NOW.as_ms() + seconds * 1000)
}

const RULES: &str = r#"
    [[rule]]
    component = "shop"
    metric = "errors"
    function = "rate"
    op = ">"
    value = 1.0
    over = "10s"
    for = "30s"
    severity = "critical"
    message = "orders fail"
"#;

/// An engine, a watchman who has read the rules, what he tells, and where their file is.
async fn ruled() -> (Bed, Watchman, watch::Receiver<Arc<RuleStates>>, tempfile::TempDir) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("rules.toml");
    std::fs::write(&path, RULES).unwrap();
    let bed = Bed::new(Kept::InMemory, NOW).await;
    let (states, told) = watch::channel(Arc::default());
    let mut watchman = Watchman::new(bed.engine.clone(), Some(path), states).unwrap();
    watchman.read().await;
    (bed, watchman, told, directory)
}

#[tokio::test]
async fn a_rule_waits_as_long_as_it_must_and_ends_with_its_cause() {
    let (bed, mut watchman, told, _directory) = ruled().await;
    let mut states = Vec::new();
    for step in 0..14i64 {
        // Errors come from 20 to 90 seconds: more than one a second.
        let errors = if (2..9).contains(&step) { 30.0 } else { 1.0 };
        if step != 5 {
            let time = later(step * 10 + 3);
            bed.turn_to(later(step * 10 + 9));
            bed.record(&[Given::new("shop", "errors", Value::Increment(errors), time)]);
        }
        bed.turn_to(later((step + 1) * 10));
        watchman.look().await;
        let told = told.borrow().clone();
        assert_eq!(told.ruled.len(), 1);
        states.push((told.ruled[0].state, told.ruled[0].since));
    }
    let (ok, pending, firing) = (RuleState::Ok, RuleState::Pending, RuleState::Firing);
    let expected = [
        (ok, None),
        (ok, None),
        (pending, Some(later(20))),
        (pending, Some(later(20))),
        (firing, Some(later(20))),
        // A step without data ends nothing.
        (firing, Some(later(20))),
    ];
    assert_eq!(states[..6], expected);
    assert!(states[6..9].iter().all(|state| *state == (firing, Some(later(20)))), "{states:?}");
    assert!(states[9..].iter().all(|state| *state == (ok, None)), "{states:?}");
}

#[tokio::test]
async fn without_data_a_rule_says_so() {
    let (bed, mut watchman, told, _directory) = ruled().await;
    watchman.look().await;
    assert_eq!(
        (told.borrow().ruled[0].state, told.borrow().ruled[0].metric.clone()),
        (RuleState::NoData, None)
    );
    bed.record(&[Given::new("shop", "errors", Value::Increment(99.0), NOW)]);
    bed.turn_to(later(600));
    watchman.look().await;
    let ruled = told.borrow().ruled[0].clone();
    assert_eq!((ruled.state, ruled.value), (RuleState::NoData, None));
    assert_eq!(ruled.metric, Some(("shop".into(), "errors".into())));
}

#[tokio::test]
async fn a_file_that_changes_is_read_again_and_a_wrong_one_leaves_the_rules_before() {
    let (bed, mut watchman, told, directory) = ruled().await;
    let path = directory.path().join("rules.toml");
    bed.record(&[Given::new("shop", "errors", Value::Increment(99.0), NOW)]);
    let mut look = async |text: Option<&str>| {
        match text {
            Some(text) => std::fs::write(&path, text).unwrap(),
            None => std::fs::remove_file(&path).unwrap(),
        }
        watchman.read().await;
        watchman.look().await;
        told.borrow().clone()
    };
    assert_eq!(look(Some(RULES)).await.ruled.len(), 1);
    let wrong = look(Some(&RULES.replace("rate", "speed"))).await;
    assert_eq!(wrong.ruled.len(), 1);
    let error = wrong.error.clone().unwrap();
    assert!(error.contains("rules.toml") && error.contains("function: "), "{error}");
    let missing = look(None).await;
    assert!(missing.error.is_some() && missing.ruled.len() == 1);
    let two = RULES.repeat(2).replace("value = 1.0", "value = 2.0");
    let two = look(Some(&two)).await;
    assert_eq!((two.ruled.len(), two.error.clone()), (2, None));
    assert_eq!(look(Some("")).await.ruled.len(), 0);
}
