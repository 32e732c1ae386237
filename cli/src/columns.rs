//! The fields of a message, as `subscribe --fields` prints them: with tabs between them, or as a JSON
//! object.

use std::io::{self, Write as _};

use base64::{Engine as _, engine::general_purpose::STANDARD};

use crate::{
    escape::{Escaped, write_json},
    subscribe::{
        field::{Field, Looked, Value},
        json::{self, Layout},
    },
};

/// Appends a line with the values, and tabs between them. Tabs, line breaks and what else a terminal
/// would act on are escaped in them; a value that is missing is empty.
pub(crate) fn line(to: &mut Vec<u8>, fields: &[Field], looked: &Looked<'_>) -> io::Result<()> {
    for (at, field) in fields.iter().enumerate() {
        if at > 0 {
            to.push(b'\t');
        }
        if let Some(value) = field.of(looked) {
            write!(to, "{}", Escaped(&value.text()))?;
        }
    }
    to.write_all(b"\n")
}

/// Appends a JSON object with the values, as they are in the payload; one that is missing is null.
pub(crate) fn object(to: &mut Vec<u8>, fields: &[Field], looked: &Looked<'_>) -> io::Result<()> {
    for (at, field) in fields.iter().enumerate() {
        to.push(if at == 0 { b'{' } else { b',' });
        let value = field.of(looked);
        let text = match &value {
            Some(Value::Bytes(bytes)) => str::from_utf8(bytes).ok(),
            _ => None,
        };
        // As `--format ndjson` has it.
        let is_encoded = field.is_payload() && text.is_none();
        string(to, if is_encoded { "payload_base64" } else { &field.name })?;
        to.push(b':');
        match (value, text) {
            (_, Some(text)) => string(to, text)?,
            (Some(Value::Bytes(bytes)), None) => string(to, &STANDARD.encode(bytes))?,
            (Some(Value::Json(value)), None) => json::write(to, value, Layout::Line)?,
            (None, None) => to.write_all(b"null")?,
        }
    }
    to.write_all(b"}\n")
}

fn string(to: &mut Vec<u8>, text: &str) -> io::Result<()> {
    write_json(to, &serde_json::to_string(text)?)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use bytes::Bytes;
    use hpfeeds::{Channel, Ident};

    use super::*;

    fn printed(fields: &str, payload: &'static [u8]) -> [String; 2] {
        let message = (Ident::new("a\u{9b}").unwrap(), Channel::new("c").unwrap(), Bytes::from_static(payload));
        let (fields, looked) = (Field::parse_list(fields).unwrap(), Looked::at(&message));
        let (mut columns, mut record) = (Vec::new(), Vec::new());
        line(&mut columns, &fields, &looked).unwrap();
        object(&mut record, &fields, &looked).unwrap();
        [columns, record].map(|bytes| String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn values_stand_in_columns_or_in_an_object() {
        let payload = br#"{ "ip": "192.0.2.1", "n": 1.50, "tab": "a\tb\u001b", "list": [1, {"x": null}] }"#;
        let [columns, record] = printed(r#"ident,ip,n,missing,tab,list,list[1]["x"]"#, payload);
        assert_eq!(columns, "a\\u{9b}\t192.0.2.1\t1.50\t\ta\\tb\\u{1b}\t[1,{\"x\":null}]\tnull\n");
        let expected = concat!(
            r#"{"ident":"a\u009b","ip":"192.0.2.1","n":1.50,"missing":null,"tab":"a\tb\u001b","list":[1,{"x":null}],"#,
            r#""list[1][\"x\"]":null}"#,
            "\n"
        );
        assert_eq!(record, expected);
    }

    #[test]
    fn a_payload_that_is_no_text_is_encoded() {
        assert_eq!(
            printed("payload,a", b"\x00\xff"),
            ["\\u{0}\\xff\t\n", "{\"payload_base64\":\"AP8=\",\"a\":null}\n"]
        );
        assert_eq!(printed("payload", b"\"x\"\n")[1], "{\"payload\":\"\\\"x\\\"\\n\"}\n");
    }
}
