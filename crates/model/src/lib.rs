//! The nouns of healthd: time, names, series, folds. What the server and its client library share.
//!
//! Nothing here does I/O, awaits, reads a clock or keeps state; so everything here can be tested
//! with values alone, and an application that only sends metrics compiles little else.

mod annotation;
mod current;
mod fold;
mod glob;
mod labels;
mod name;
mod retention;
mod selector;
mod series;
mod session;
mod short;
mod sketch;
mod text;
mod time;
mod value;
mod when;

pub use annotation::{Annotation, MAX_ANNOTATION_BYTES, MAX_ANNOTATIONS};
pub use current::Current;
pub use fold::{Counter, Fold, FoldError, Folds, MAX_COUNT, Many, Merge, Rolling, Row, merge_rows};
pub use glob::Glob;
pub use labels::{Labels, LabelsError, MAX_LABEL_VALUE_BYTES, MAX_LABELS, canonical_labels};
pub use name::{GLOBAL, MAX_NAME_BYTES, NameError, beginning, check_name};
pub use retention::{Retention, RetentionError, SpanError, Tier, format_span, parse_span};
pub use selector::{Fits, Matcher, Selector};
pub use series::{ComponentId, Kind, Metric, Series, SeriesId, SeriesKey};
pub use session::{Fate, Mark};
pub use short::short;
pub use sketch::{Bin, MAX_BINS, MAX_COARSENESS, Sketch, SketchError, bin_of, relative_error};
pub use text::{MAX_DESCRIPTION_BYTES, MAX_UNIT_BYTES, TextError, check_text, hex};
pub use time::{Range, Timestamp, Width, WidthError};
pub use value::{MAX_MAGNITUDE, ValueError, check_increment, check_value};
pub use when::{MomentError, TimeError, parse_moment, parse_time};
