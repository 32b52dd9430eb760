//! `obleth usage`: what was used, from the reports of a running gateway.
//!
//! A thin client: sums, zones and names are the gateway's, here they are only laid out. Nothing is added up a second
//! time, so that the table cannot differ from the API.

mod layout;

use std::io;

use crate::{
    cli::UsageArgs,
    exit::{Exit, Failure},
    remote::{self, Remote},
    terminal,
};
use layout::Sheet;

/// What is added up by where nobody says.
const BY: &str = "tenant";
/// Longest report that is read: more groups than the API gives.
const MAX_REPORT: u64 = 256 << 20;

/// Prints the report that was asked for.
///
/// # Errors
/// There is no answer, or a refusal; nothing has been printed then, unless the answer broke off.
pub(crate) fn report(args: &UsageArgs) -> Result<(), Failure> {
    let remote = Remote::find(&args.remote)?;
    let said = [("from", &args.from), ("to", &args.to), ("tz", &args.tz), ("by", &args.by)];
    let mut query: Vec<(&str, &str)> =
        said.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect();
    if args.csv && args.by.is_none() {
        let rows = remote.get("/usage/export.csv", &query)?;
        return terminal::copy(rows.into_reader()).map_err(|error| remote::broken(&error));
    }
    let by = args.by.as_deref().unwrap_or(BY);
    if args.by.is_none() {
        query.push(("by", by));
    }
    let body = remote.get("/usage", &query)?.into_with_config().limit(MAX_REPORT);
    let text = body.read_to_string().map_err(|error| remote::broken(&io::Error::other(error)))?;
    if args.json {
        terminal::say(text.trim_end());
        return Ok(());
    }
    let sheet = Sheet::read(&text, by).ok_or_else(|| {
        let line = "the gateway's report is not one that this version can lay out; see it with --json";
        Failure::new(Exit::IoErr, line)
    })?;
    terminal::say(if args.csv { sheet.csv() } else { sheet.table() }.trim_end());
    Ok(())
}
