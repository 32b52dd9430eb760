//! Where values come from: flags, the environment, the file, and the files that secrets lie in.
//!
//! Here a name finds its setting, or is refused with a suggestion. What a value means is the table's business.
//! Only [`Environment::of_process`] touches the process's environment.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use super::{
    Fault, LoadError, Place,
    file::Entry,
    suggest::closest,
    table::{self, Name, Setting},
};

/// What all our variables begin with.
const PREFIX: &str = "OBLETH_";
/// The one variable that is no setting: it names the file.
const CONFIG: &str = "OBLETH_CONFIG";
/// Largest configuration file and largest secret file. Both are a few lines; more is a mistaken path.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Environment variables by name; a value that is not UTF-8 is `None`.
#[derive(Debug, Default)]
pub(crate) struct Environment(BTreeMap<String, Option<String>>);

impl Environment {
    /// The process's own, as it is now.
    pub(crate) fn of_process() -> Self {
        let named = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            name.into_string().ok().map(|name| (name, value.into_string().ok()))
        };
        Self(std::env::vars_os().filter_map(named).collect())
    }

    /// A made-up one.
    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), Some((*value).to_owned()))).collect())
    }

    /// The value of a variable, if it is set and text.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.get(name)?.as_deref()
    }
}

/// Settings that were given as flags.
#[derive(Debug, Default)]
pub(crate) struct Flags(Vec<(&'static str, &'static str, String)>);

impl Flags {
    /// Notes that `flag` (with its dashes) sets `setting` (without prefix), if it was given.
    pub(crate) fn with(mut self, flag: &'static str, setting: &'static str, value: Option<String>) -> Self {
        self.0.extend(value.map(|value| (flag, setting, value)));
        self
    }
}

/// A value as it was given.
#[derive(Clone, Debug)]
enum Given {
    Text(String),
    InFile(PathBuf),
}

/// The winning source of every setting that was set.
#[derive(Debug, Default)]
pub(crate) struct Sources(BTreeMap<&'static str, (Given, Place)>);

impl Sources {
    /// Sorts the names out. Unknown keys of the file and names of later versions are faults; unknown
    /// variables are warnings, because the environment is shared with others.
    pub(crate) fn new(
        flags: Flags,
        environment: Environment,
        file: Vec<Entry>,
        faults: &mut Vec<Fault>,
        warnings: &mut Vec<Fault>,
    ) -> Self {
        let mut all = Self::default();
        let mut layer = BTreeMap::new();
        for Entry { key, value, place } in file {
            match table::find(&key.to_ascii_uppercase()) {
                _ if key.bytes().any(|byte| byte.is_ascii_uppercase()) => {
                    faults.push(unknown_key(&key, place))
                }
                Name::Unknown => faults.push(unknown_key(&key, place)),
                name => put(&mut layer, name, value, place, faults),
            }
        }
        all.0.append(&mut layer);
        for (variable, value) in environment.0 {
            let Some(name) = variable.strip_prefix(PREFIX).filter(|_| variable != CONFIG) else { continue };
            let place = Place::variable(&variable);
            match (table::find(name), value) {
                (Name::Unknown, _) => warnings.push(unknown_variable(name, place)),
                (_, None) => faults.push(Fault::new(place, "is not UTF-8")),
                // Compose files and charts pass empty values on for what nobody set.
                (Name::Later, Some(value)) if value.is_empty() => {}
                (name, Some(value)) => put(&mut layer, name, value, place, faults),
            }
        }
        all.0.append(&mut layer);
        for (flag, name, value) in flags.0 {
            put(&mut layer, table::find(name), value, Place::Flag(flag.to_owned()), faults);
        }
        all.0.append(&mut layer);
        all
    }

    /// The text of a setting and where it is from; the default where nobody set it.
    ///
    /// # Errors
    /// The file that a secret lies in cannot be read, or the value is empty.
    pub(crate) fn text(&self, setting: &Setting) -> Result<(String, Place), Fault> {
        let Some((given, place)) = self.0.get(setting.name) else {
            return Ok((setting.default.to_owned(), self.place(setting.name)));
        };
        let text = match given {
            Given::Text(text) => text.clone(),
            Given::InFile(path) => match read_small(path) {
                Ok(text) => text.trim_end_matches(['\n', '\r']).to_owned(),
                Err(cause) => {
                    return Err(Fault::new(
                        place.clone(),
                        format!("cannot read {}: {cause}", path.display()),
                    ));
                }
            },
        };
        if text.is_empty() {
            return Err(Fault::new(place.clone(), "is empty; give it a value or leave it out"));
        }
        Ok((text, place.clone()))
    }

    /// Where a setting is from.
    pub(crate) fn place(&self, name: &'static str) -> Place {
        self.0.get(name).map_or(Place::Default(name), |(_, place)| place.clone())
    }
}

/// One value into the layer of its source. A secret that is given twice in one source is a fault.
fn put(
    layer: &mut BTreeMap<&'static str, (Given, Place)>,
    name: Name,
    value: String,
    place: Place,
    faults: &mut Vec<Fault>,
) {
    let (setting, given) = match name {
        Name::Setting(setting) => (setting, Given::Text(value)),
        Name::SecretFile(setting) => (setting, Given::InFile(PathBuf::from(value))),
        Name::Later => return faults.push(Fault::new(place, "is not in this version; leave it out")),
        Name::Unknown => return faults.push(Fault::new(place, "is no setting")),
    };
    if let Some((_, other)) = layer.insert(setting.name, (given, place.clone())) {
        faults.push(Fault::new(place, format!("is given twice, also as {other}; keep one")));
    }
}

fn unknown_key(key: &str, place: Place) -> Fault {
    let lower = key.to_ascii_lowercase();
    let bare = lower.strip_prefix("obleth_").unwrap_or(&lower);
    let known: Vec<String> = table::names().map(|name| name.to_ascii_lowercase()).collect();
    let message = match closest(bare, known.iter().map(String::as_str)) {
        Some(name) => format!("is no setting; did you mean `{name}`?"),
        None => "is no setting; `obleth check --settings` lists all".to_owned(),
    };
    Fault::new(place, message)
}

fn unknown_variable(name: &str, place: Place) -> Fault {
    let message = match closest(name, table::names().chain(["CONFIG"])) {
        Some(name) => format!("is no setting and is ignored; did you mean {PREFIX}{name}?"),
        None => "is no setting and is ignored".to_owned(),
    };
    Fault::new(place, message)
}

/// The configuration file's path and text, if one is named.
///
/// # Errors
/// It cannot be read.
pub(crate) fn config_file(
    flag: Option<&Path>,
    environment: &Environment,
    faults: &mut Vec<Fault>,
) -> Result<Option<(PathBuf, String)>, LoadError> {
    let path = match (flag, environment.0.get(CONFIG)) {
        (Some(path), _) => path.to_owned(),
        (None, None) => return Ok(None),
        (None, Some(Some(path))) if !path.is_empty() => PathBuf::from(path),
        (None, Some(_)) => {
            faults.push(Fault::new(
                Place::variable(CONFIG),
                "is empty or not UTF-8; name a file or leave it out",
            ));
            return Ok(None);
        }
    };
    match read_small(&path) {
        Ok(text) => Ok(Some((path, text))),
        Err(cause) => Err(LoadError::File(Fault::new(
            Place::File(path),
            format!("cannot read the configuration file: {cause}"),
        ))),
    }
}

/// A text file of at most [`MAX_FILE_BYTES`], or why not.
fn read_small(path: &Path) -> Result<String, String> {
    let about = fs::metadata(path).map_err(|error| error.to_string())?;
    // A pipe says 0 bytes; it is allowed, because `<(…)` of a shell is one.
    if about.is_dir() || about.len() > MAX_FILE_BYTES {
        return Err(format!("it is a folder or larger than {MAX_FILE_BYTES} bytes"));
    }
    fs::read_to_string(path).map_err(|error| error.to_string())
}
