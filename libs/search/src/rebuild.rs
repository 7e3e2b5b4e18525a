//! Makes an index anew from its log, beside the old one, and puts it in its place.
//!
//! # Problem
//! A read model that is emptied and filled again shows half of what there is, for as long as that takes.
//!
//! # Pattern
//! Build beside, compare, swap in one step.
//!
//! # Here
//! [`rebuild`] does it to a file that nobody else has open, [`renew`] to an index that replicas have together, while they search
//! and write it. Killed anywhere, one whole index is there, and what was left beside it is removed by the next. How the old one
//! differed is told; that it was behind is no difference.
//!
//! # Limits
//! All names and versions of both indices are held in memory while they are compared. The lease `rebuild-<name>` keeps two from
//! doing this at once and guards nothing: two that did would each make a whole index, and one would take the place of the other or fail.
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;

use futures::future::{Either, select};
use store::turn::{RENEW, Turn};
use store::{Position, Store, Version};
use tokio::time::sleep;
use uuid::Uuid;

use crate::fts::Fts;
use crate::projection::{PAGE, PAUSE, Projection, Stopped, page_after, write_page};
use crate::{Index, SearchError, Shared, Standing};

/// What a rebuild found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rebuilt {
    /// How many documents the new index has.
    pub documents: usize,
    /// How many of them the old one had not, or otherwise, and how many it had too many.
    pub differences: usize,
}

/// Makes the index in `file` anew beside the old one, compares both, and puts the new one in its place. Nobody else has the
/// file open. Killed anywhere, one whole index is there: the old or the new.
///
/// # Errors
/// If the log cannot be read, or a file cannot be written.
pub async fn rebuild(store: &dyn Store, projection: &dyn Projection, file: &Path) -> Result<Rebuilt, Stopped> {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = Path::new(&beside);
    let broken = |why: std::io::Error| SearchError::Unavailable(format!("{}: {why}", file.display()));
    crate::fts::remove(beside).map_err(broken)?;
    let new = Fts::open(beside)?;
    let rebuilt = make_again(store, projection, Some(&Fts::open(file)?), &new).await?;
    // Closing it writes its log back: one file is all there is.
    drop(new);
    std::fs::File::open(beside).and_then(|file| file.sync_all()).map_err(broken)?;
    crate::fts::remove(file).map_err(broken)?;
    // Danger: killed here, there is no index, and the next start makes it.
    std::fs::rename(beside, file).map_err(broken)?;
    if let Some(folder) = file.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(broken)?;
    }
    Ok(rebuilt)
}

/// Makes the index that replicas have together anew beside the one that is there, compares both if that one is of this form and
/// of this log, and puts the new one in its place. Searches and writers go on meanwhile. `holder` is this attempt's own id.
///
/// # Errors
/// If another process is doing it, the log cannot be read, or an index not be written: what is there stays then.
pub async fn renew(
    store: &Arc<dyn Store>,
    projection: &dyn Projection,
    index: &dyn Shared,
    holder: Uuid,
) -> Result<Rebuilt, Stopped> {
    let name = projection.name();
    let mut turn = Turn::new(store.clone(), format!("rebuild-{name}"), holder);
    if !turn.is_mine().await? {
        let why = format!("the index of {name} is being made anew by another process");
        return Err(SearchError::Unavailable(why).into());
    }
    let renewed = match select(pin!(beside(store.as_ref(), projection, index)), pin!(keep(&mut turn))).await {
        Either::Left((renewed, _)) => renewed,
        // What another has begun since must not be removed here.
        Either::Right((lost, _)) => return Err(lost.into()),
    };
    if renewed.is_err() {
        // What cannot be removed now is removed by the next.
        let _ = index.tidy().await;
    }
    // Otherwise it runs out.
    let _ = turn.give_back().await;
    renewed
}

/// Keeps the lease until it is lost.
async fn keep(turn: &mut Turn) -> SearchError {
    loop {
        sleep(RENEW).await;
        // A store that cannot say is asked again: the lease may still be there.
        if let Ok(false) = turn.is_mine().await {
            return SearchError::Unavailable("another process has begun to make the index anew".to_owned());
        }
    }
}

async fn beside(store: &dyn Store, projection: &dyn Projection, index: &dyn Shared) -> Result<Rebuilt, Stopped> {
    index.tidy().await?;
    let old: Option<&dyn Index> = match index.standing().await? {
        Standing::Current => Some(index),
        Standing::Earlier | Standing::Absent => None,
    };
    let (name, new) = index.beside().await?;
    let rebuilt = make_again(store, projection, old, new.as_ref()).await?;
    // The old one was written on while both were compared.
    follow(store, projection, new.as_ref(), Position::MAX).await?;
    index.put_in_place(&name).await?;
    Ok(rebuilt)
}

/// Makes a new index from the log, and compares an old one with it.
async fn make_again(
    store: &dyn Store,
    projection: &dyn Projection,
    old: Option<&dyn Index>,
    new: &dyn Index,
) -> Result<Rebuilt, Stopped> {
    let (documents, first) = compare(store, projection, old, new).await?;
    if first.is_empty() {
        return Ok(Rebuilt { documents, differences: 0 });
    }
    // A document is its stream as it is when it is loaded: while others write, one index may be ahead of the other. What differs
    // in the same way once both have come further does not come right.
    sleep(PAUSE).await;
    let (documents, again) = compare(store, projection, old, new).await?;
    Ok(Rebuilt { documents, differences: first.intersection(&again).count() })
}

/// A document, its version in the old index and that in the new one; 0 if it is not there.
type Difference = (String, Version, Version);

/// Carries both to the end of the log; how many documents the new one has, and how they differ.
async fn compare(
    store: &dyn Store,
    projection: &dyn Projection,
    old: Option<&dyn Index>,
    new: &dyn Index,
) -> Result<(usize, BTreeSet<Difference>), Stopped> {
    follow(store, projection, new, Position::MAX).await?;
    let mut was = BTreeMap::new();
    if let Some(old) = old {
        // What the old one had not read yet is no difference.
        follow(store, projection, old, new.checkpoint().await?.position).await?;
        was.extend(old.all().await?);
    }
    let is: BTreeMap<_, _> = new.all().await?.into_iter().collect();
    let ids = was.keys().chain(is.keys()).filter(|id| was.get(*id) != is.get(*id));
    let version = |index: &BTreeMap<String, Version>, id| index.get(id).copied().unwrap_or(0);
    let differences = ids.map(|id| (id.clone(), version(&was, id), version(&is, id))).collect();
    Ok((is.len(), differences))
}

/// Carries an index to the end of the log as it is now, or only to `end`. One of another log stays as it is: carried on, it would
/// look like one of this log, and hold both.
async fn follow(
    store: &dyn Store,
    projection: &dyn Projection,
    index: &dyn Index,
    end: Position,
) -> Result<(), Stopped> {
    // A page that is not full was read at the end. A store may show its latest positions on the second look only; a third would be
    // for what came meanwhile, and never the last while others write.
    let mut ends = 0;
    while ends < 2 {
        let checkpoint = index.checkpoint().await?;
        if checkpoint.position >= end {
            break;
        }
        let Some(page) = page_after(store, checkpoint, PAGE).await? else { break };
        let events = write_page(store, projection, index, checkpoint.position, &page).await?;
        ends = if events < PAGE { ends + 1 } else { 0 };
    }
    Ok(())
}
