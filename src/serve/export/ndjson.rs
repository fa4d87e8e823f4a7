//! NDJSON: a JSON object a line, each a fold with all that there is of it.
//!
//! It is the one format that loses nothing: distributions come with it, so what is imported again has the
//! same percentiles.

use super::json::row;
use super::{Format, Totals, Written};
use crate::engine::{Exported, Exporting};
use model::{Fold, Rolling};
use serde_json::json;

pub(super) struct Ndjson;

impl Format for Ndjson {
    fn begin(&mut self, _exporting: &mut Exporting, _out: &mut Vec<u8>) -> Written {
        Ok(())
    }

    fn add(&mut self, exported: &Exported, out: &mut Vec<u8>) -> Written {
        let metric = &exported.series.metric;
        for (time, fold) in &exported.folds {
            let mut row = row(&exported.series, *time, exported.width, fold);
            row.insert("component".to_owned(), json!(&*metric.component));
            if !metric.description.is_empty() {
                row.insert("description".to_owned(), json!(&*metric.description));
            }
            if let Fold::Rolling(Rolling::Many(many)) = fold {
                let sketch = many.sketch.settled();
                if !sketch.bins().is_empty() {
                    let bins: Vec<_> =
                        sketch.bins().iter().map(|bin| (bin.key, bin.count)).collect();
                    row.insert("bins".to_owned(), json!(bins));
                    row.insert("bins_joined".to_owned(), json!(sketch.coarseness()));
                }
            }
            serde_json::to_writer(&mut *out, &row)?;
            out.push(b'\n');
        }
        Ok(())
    }

    fn end(&mut self, _totals: &Totals, _out: &mut Vec<u8>) -> Written {
        Ok(())
    }
}
