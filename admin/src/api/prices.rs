//! A model's prices: what a body says about them, and `/models/{id}/prices`, every version that there was.
//!
//! A version is never changed, so that a row of the ledger can always be checked against the one that it names.

use axum::{
    extract::{Path, State},
    response::Response,
};

use super::{
    App,
    body::Fields,
    error::ApiError,
    list::ListQuery,
    models::id,
    openapi::{Api, Operation},
    shapes::PRICE_VERSION,
    tenants::set,
};
use crate::store::rows::PricesRow;

/// What a price may be; the upper end is what JSON readers with floats can hold.
pub(super) const PRICES: std::ops::RangeInclusive<i64> = 0..=(1 << 53) - 1;

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    let about = "All versions of its prices, newest first; also of a model that was deleted";
    api.on(Operation::list("/models/{id}/prices", about, &PRICE_VERSION, &[]), list)
}

async fn list(
    State(app): State<App>,
    Path(of): Path<String>,
    query: ListQuery,
) -> Result<Response, ApiError> {
    let (model, page) = (id(&of)?, query.page);
    let rows = app.ask(move |db| db.list_prices(model, page)).await?;
    Ok(query.answer(rows, |row| row.id))
}

/// What a body says about prices: `null` for the whole or for a part means no price.
#[derive(Debug, Default)]
pub(super) struct PricesEdit {
    reset: bool,
    input: Option<Option<i64>>,
    cached_input: Option<Option<i64>>,
    output: Option<Option<i64>>,
    image: Option<Option<i64>>,
    second: Option<Option<i64>>,
    character: Option<Option<i64>>,
}

impl PricesEdit {
    pub(super) fn read(body: &mut Fields) -> Result<Self, ApiError> {
        let mut body = match body.maybe_object("prices", "prices.")? {
            None => return Ok(Self::default()),
            Some(None) => return Ok(Self { reset: true, ..Self::default() }),
            Some(Some(body)) => body,
        };
        let edit = Self {
            reset: false,
            input: body.maybe_number("input_micro_usd", PRICES)?,
            cached_input: body.maybe_number("cached_input_micro_usd", PRICES)?,
            output: body.maybe_number("output_micro_usd", PRICES)?,
            image: body.maybe_number("image_micro_usd", PRICES)?,
            second: body.maybe_number("second_micro_usd", PRICES)?,
            character: body.maybe_number("character_micro_usd", PRICES)?,
        };
        body.finish()?;
        Ok(edit)
    }

    /// The version is the store's to set.
    pub(super) fn apply(self, to: &mut PricesRow) {
        if self.reset {
            *to = PricesRow::default();
        }
        set(&mut to.input, self.input);
        set(&mut to.cached_input, self.cached_input);
        set(&mut to.output, self.output);
        set(&mut to.image, self.image);
        set(&mut to.second, self.second);
        set(&mut to.character, self.character);
    }
}
