//! The commit of a flush: blocks, new series, marks and the flush's number in one transaction.
//!
//! The number is read and moved inside the transaction, so a flush that is tried again after all is
//! seen to be there and changes nothing.

use super::super::block::Block;
use super::super::{Error, Flush, absent_series, check_sequence};
use super::catalogue::{self, Known};
use super::connect::{error, was_rolled_back};
use super::schema::{Meta, Writer};
use super::{annotation, run, session};
use crate::canary::Canary;
use parking_lot::Mutex;
use rusqlite::{Connection, TransactionBehavior, params};
use std::sync::atomic::{AtomicBool, Ordering};

/// Commits. `begun` is set while the outcome of a COMMIT is open: an error that comes with it set
/// leaves unknown whether the flush is stored.
pub(super) fn commit(
    connection: &mut Connection,
    writer: Writer,
    flush: &Flush,
    blocks: &[Block],
    known: &Mutex<Option<Known>>,
    begun: &AtomicBool,
) -> Result<(), Error> {
    // Put back at the end only: whatever goes wrong, the next commit reads what the file holds.
    let mut present = match known.lock().take() {
        Some(known) => known,
        None => catalogue::load(connection)?.0,
    };
    let change =
        connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(error)?;
    let meta = Meta::read(&change)?;
    writer.check(&meta)?;
    if !Canary::BlindRetry.is_planted() {
        if flush.seq <= meta.flush_seq {
            return Ok(());
        }
        check_sequence(flush.seq, meta.flush_seq)?;
    }
    let added = catalogue::insert(&change, &present, &flush.series)?;
    if let Some(id) = flush.ids().find(|id| !present.has(&added, *id)) {
        return Err(absent_series(id));
    }
    if !blocks.is_empty() {
        let new = run::New { level: run::Level::Fresh, seq: flush.seq, made: flush.now, form: "" };
        let run = run::begin(&change, &new).map_err(error)?;
        run::add(&change, run, blocks.iter()).map_err(error)?;
        run::publish(&change, run).map_err(error)?;
    }
    if !Canary::MarksApart.is_planted() {
        session::write(&change, &flush.marks).map_err(error)?;
    }
    annotation::add(&change, &flush.annotations).map_err(error)?;
    let lived = i64::try_from(flush.lived.as_millis()).unwrap_or(i64::MAX);
    change
        .execute(
            "UPDATE meta SET flush_seq = ?1, active_ms = max(active_ms, ?2),
                 lived_ms = max(lived_ms, ?3)",
            params![flush.seq as i64, flush.now.as_ms(), lived],
        )
        .map_err(error)?;
    begun.store(true, Ordering::Release);
    if let Err(failure) = change.commit() {
        begun.store(!was_rolled_back(&failure), Ordering::Release);
        return Err(error(failure));
    }
    if Canary::MarksApart.is_planted() {
        session::write(connection, &flush.marks).map_err(error)?;
    }
    present.absorb(added);
    *known.lock() = Some(present);
    Ok(())
}
