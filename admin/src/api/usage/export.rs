//! The export: page after page of the ledger as one CSV body, never more than one page in memory.
//!
//! The first page is there before the head leaves, so that a fault is a proper refusal. One that comes later cuts the
//! body off: half a table must not look like a whole one.

use std::{
    borrow::Cow,
    pin::Pin,
    task::{Context, Poll},
};

use axum::body::Body;
use hyper::body::{Bytes, Frame};

use super::{
    App,
    names::{NAMES, Names},
};
use crate::usage::{
    csv,
    fault::LedgerFault,
    report::Page,
    row::{COLUMNS, Entry},
};

/// Lines, and the question for those that follow; none after the last.
type Part = (String, Option<Page>);
type Coming = Pin<Box<dyn Future<Output = Result<Part, LedgerFault>> + Send>>;

/// The body under way. When it is dropped, because the client has left, nothing more is asked.
struct Export {
    app: App,
    /// What can be sent at once.
    ready: Option<Part>,
    coming: Option<Coming>,
}

/// A body whose first page is there.
pub(super) async fn begin(app: App, page: Page) -> Result<Body, LedgerFault> {
    let (lines, next) = part(App::clone(&app), page).await?;
    let mut text = String::new();
    let names = COLUMNS.iter().map(|column| column.name).chain(NAMES);
    csv::write_line(&mut text, names.map(Cow::Borrowed));
    let ready = Some((text + &lines, next));
    Ok(Body::new(Export { app, ready, coming: None }))
}

async fn part(app: App, page: Page) -> Result<Part, LedgerFault> {
    let entries = app.ledger.page(page.clone()).await?;
    let is_last = entries.len() < page.limit as usize;
    let names = Names::of_entries(&app, &entries).await;
    let mut lines = String::new();
    for entry in &entries {
        let beside = names.beside(entry).map(|name| Cow::Borrowed(name.unwrap_or_default()));
        csv::write_line(&mut lines, entry.cells().iter().map(|cell| csv::text(cell.as_ref())).chain(beside));
    }
    let after = entries.last().and_then(Entry::place).filter(|_| !is_last);
    Ok((lines, after.map(|after| Page { after: Some(after), ..page })))
}

impl hyper::body::Body for Export {
    type Data = Bytes;
    type Error = LedgerFault;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, LedgerFault>>> {
        if let Some(coming) = &mut self.coming {
            match coming.as_mut().poll(context) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(came) => {
                    self.coming = None;
                    match came {
                        Ok(part) => self.ready = Some(part),
                        Err(fault) => {
                            tracing::warn!(target: "obleth_admin", "an export was cut off: {fault}");
                            return Poll::Ready(Some(Err(fault)));
                        }
                    }
                }
            }
        }
        let Some((lines, next)) = self.ready.take() else { return Poll::Ready(None) };
        if let Some(page) = next {
            self.coming = Some(Box::pin(part(App::clone(&self.app), page)));
        }
        Poll::Ready(Some(Ok(Frame::data(lines.into()))))
    }
}
