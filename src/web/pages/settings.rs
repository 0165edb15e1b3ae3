//! The configuration in force: every key with its value. Of a secret only the file's name is known here at all.
//!
//! Left out: changing anything.

use askama::Template;
use axum::Extension;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;

use super::Pages;
use super::frame::{Frame, page, plain};
use super::guard::Visitor;

#[derive(Template)]
#[template(path = "pages/configuration.html")]
struct ConfigurationPage {
    frame: Frame,
    sections: Vec<Section>,
}

struct Section {
    name: String,
    rows: Vec<Row>,
}

struct Row {
    key: String,
    value: String,
    is_default: bool,
}

/// The page.
pub(super) async fn page_of(State(pages): State<Pages>, Extension(visitor): Extension<Visitor>) -> Response {
    let config = pages.site.config();
    let mut sections: Vec<Section> = Vec::new();
    for setting in config.settings.list() {
        let name = setting.key.split(['.', '[']).next().unwrap_or_default();
        let row = Row { key: plain(&setting.key), value: plain(&setting.value), is_default: setting.is_default };
        match sections.iter_mut().find(|section| section.name == name) {
            Some(section) => section.rows.push(row),
            None => sections.push(Section { name: name.to_owned(), rows: vec![row] }),
        }
    }
    let frame = Frame::new(&pages, Some(&visitor), "/configuration", "Configuration");
    page(StatusCode::OK, &ConfigurationPage { frame, sections })
}
