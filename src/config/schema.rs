//! JSON schemas of tables.

use schemars::{Schema, json_schema};
use serde_json::{Map, json};

use super::value::Value;

/// Returns a doc comment without the markup of links.
fn plain(text: &str) -> String {
    let mut plain = String::new();
    let mut rest = text;
    while let Some(start) = rest.find('[') {
        plain.push_str(&rest[..start]);
        rest = &rest[start + 1..];
        let Some(end) = rest.find(']') else { break };
        plain.push_str(&rest[..end]);
        rest = &rest[end + 1..];
        if rest.starts_with('(') {
            rest = rest.split_once(')').map_or("", |(_, rest)| rest);
        }
    }
    plain.push_str(rest);
    plain.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Returns the schema of a table. Each key has a name, a description, a schema, and a default.
pub(super) fn table<const N: usize>(
    about: &str,
    keys: [(&str, &str, Schema, Option<Value>); N],
) -> Schema {
    let mut properties = Map::new();
    for (key, text, schema, default) in keys {
        let schema = schema.to_value();
        let mut property = match schema {
            // Draft 2019-09 and later allow other keywords beside a reference.
            serde_json::Value::Object(object) => object,
            _ => Map::new(),
        };
        property.insert("description".into(), plain(text).into());
        if let Some(default) = default.and_then(|default| serde_json::to_value(default).ok()) {
            property.insert("default".into(), default);
        }
        properties.insert(key.into(), property.into());
    }
    json_schema!({
        "type": "object",
        "description": plain(about),
        "properties": properties,
        "additionalProperties": false,
    })
}

/// Returns the schema of a table with one key.
pub(super) fn single(key: &str, value: Schema) -> Schema {
    json_schema!({
        "type": "object",
        "properties": { key: value },
        "required": [key],
        "additionalProperties": false,
    })
}

/// Returns the schema of tables of several kinds. The key `kind` may be left out for the first.
pub(super) fn kinds<const N: usize>(about: &str, kinds: [(&str, Schema); N]) -> Schema {
    let mut all = Vec::new();
    for (index, (kind, schema)) in kinds.into_iter().enumerate() {
        let mut schema = schema.to_value();
        schema["properties"]["kind"] = json!({ "const": kind });
        if index > 0 {
            schema["required"] = json!(["kind"]);
        }
        all.push(schema);
    }
    json_schema!({ "description": plain(about), "anyOf": all })
}
