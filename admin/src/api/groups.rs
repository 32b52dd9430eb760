//! `/groups`: tenants that share a weight.

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::Response,
};
use obleth_policy::id::GroupId;

use super::{
    App, WEIGHTS, act,
    body::Fields,
    budget,
    error::ApiError,
    id_of,
    list::ListQuery,
    openapi::{Api, Body, Operation},
    shapes::{GROUP, GROUP_EDIT},
    tenants::set,
};
use crate::{
    store::{fault::Kind, rows::GroupRow},
    usage::calendar::Zone,
};

/// The routes of this file.
pub(super) fn routes(api: Api) -> Api {
    const ONE: &str = "/groups/{id}";
    api.on(Operation::list("/groups", "All groups, newest first", &GROUP, &[]), list)
        .on(Operation::post("/groups", "Make a group", Body::of(&GROUP_EDIT, &["name"]), &GROUP), create)
        .on(Operation::get(ONE, "One group", &GROUP), show)
        .on(Operation::patch(ONE, "Change what is named", Body::of(&GROUP_EDIT, &[]), &GROUP), edit)
        .on(Operation::delete(ONE, "Delete it; it must be empty", &GROUP), delete)
}

type Answer = Result<Json<GroupRow>, ApiError>;

pub(super) fn id(text: &str) -> Result<GroupId, ApiError> {
    id_of(text, Kind::Group).map(GroupId)
}

/// What a body says about a group; what it does not say stays.
#[derive(Debug)]
struct Edit {
    name: Option<String>,
    weight: Option<u32>,
    time_zone: Option<Zone>,
}

impl Edit {
    fn read(mut body: Fields) -> Result<Self, ApiError> {
        let edit = Self {
            name: body.name("name")?,
            weight: body.number("weight", WEIGHTS)?,
            time_zone: budget::time_zone(&mut body)?,
        };
        body.finish()?;
        Ok(edit)
    }

    fn apply(self, row: &mut GroupRow) {
        set(&mut row.name, self.name);
        set(&mut row.weight, self.weight);
        set(&mut row.time_zone, self.time_zone);
    }
}

pub(super) async fn list(State(app): State<App>, query: ListQuery) -> Result<Response, ApiError> {
    let page = query.page;
    let rows = app.ask(move |db| db.list_groups(page)).await?;
    Ok(query.answer(rows, |row| row.id.0))
}

pub(super) async fn show(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.ask(move |db| db.group(id)).await.map(Json)
}

pub(super) async fn create(
    State(app): State<App>,
    mut body: Fields,
) -> Result<(StatusCode, Json<GroupRow>), ApiError> {
    let name = body.name("name")?;
    let name = body.required("name", name)?;
    let mut row = GroupRow::draft(name);
    Edit::read(body)?.apply(&mut row);
    let row = app.change(move |db| db.create_group(&act("group.create"), row)).await?;
    Ok((StatusCode::CREATED, Json(row)))
}

pub(super) async fn edit(State(app): State<App>, Path(of): Path<String>, body: Fields) -> Answer {
    let id = id(&of)?;
    let edit = Edit::read(body)?;
    app.change(move |db| db.update_group(&act("group.update"), id, |row| edit.apply(row))).await.map(Json)
}

pub(super) async fn delete(State(app): State<App>, Path(of): Path<String>) -> Answer {
    let id = id(&of)?;
    app.change(move |db| db.delete_group(&act("group.delete"), id)).await.map(Json)
}
