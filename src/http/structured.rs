//! A parser and a serializer for the part of structured fields (RFC 9651) that rate limit fields need.

use std::fmt;

/// A bare item.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Bare {
    Integer(i64),
    Text(String),
    /// A byte sequence, as the base64 text between its colons.
    Bytes(String),
    /// A token, decimal, boolean, date, or display string: valid, but not used here.
    Other,
}

/// A member of a list, with its parameters. Of parameters with the same name, the last one counts.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Item {
    pub(super) value: Bare,
    pub(super) parameters: Vec<(String, Bare)>,
}

impl Item {
    pub(super) fn parameter(&self, name: &str) -> Option<&Bare> {
        let mut found = self.parameters.iter().rev();
        Some(&found.find(|(key, _)| key == name)?.1)
    }
}

/// Parses a list. `None` if the field is malformed, which invalidates all of it.
///
/// A member that is an inner list is valid and has the value [`Bare::Other`].
pub(super) fn parse_list(text: &str) -> Option<Vec<Item>> {
    let mut rest = Parser(text.trim_matches(' ').as_bytes());
    let mut items = Vec::new();
    if rest.0.is_empty() {
        return Some(items);
    }
    loop {
        items.push(rest.member()?);
        rest.skip_whitespace();
        if rest.0.is_empty() {
            return Some(items);
        }
        rest.expect(b',')?;
        rest.skip_whitespace();
        // A trailing comma is malformed: the next member is missing.
        rest.peek()?;
    }
}

struct Parser<'a>(&'a [u8]);

impl Parser<'_> {
    fn peek(&self) -> Option<u8> {
        self.0.first().copied()
    }

    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    fn expect(&mut self, byte: u8) -> Option<()> {
        (self.next()? == byte).then_some(())
    }

    fn eat(&mut self, byte: u8) -> bool {
        let eaten = self.peek() == Some(byte);
        if eaten {
            self.0 = &self.0[1..];
        }
        eaten
    }

    fn skip_whitespace(&mut self) {
        while self.eat(b' ') || self.eat(b'\t') {}
    }

    fn take_while(&mut self, accepts: impl Fn(u8) -> bool) -> String {
        let length = self.0.iter().take_while(|byte| accepts(**byte)).count();
        let (taken, rest) = self.0.split_at(length);
        self.0 = rest;
        String::from_utf8_lossy(taken).into_owned()
    }

    fn member(&mut self) -> Option<Item> {
        let value = if self.eat(b'(') {
            loop {
                while self.eat(b' ') {}
                if self.eat(b')') {
                    break Bare::Other;
                }
                self.bare()?;
                self.parameters()?;
                if !matches!(self.peek(), Some(b' ' | b')')) {
                    return None;
                }
            }
        } else {
            self.bare()?
        };
        let parameters = self.parameters()?;
        Some(Item { value, parameters })
    }

    fn parameters(&mut self) -> Option<Vec<(String, Bare)>> {
        let mut parameters = Vec::new();
        while self.eat(b';') {
            while self.eat(b' ') {}
            if !matches!(self.peek()?, b'a'..=b'z' | b'*') {
                return None;
            }
            let key = self.take_while(
                |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'.' | b'*'),
            );
            let value = match self.eat(b'=') {
                true => self.bare()?,
                false => Bare::Other,
            };
            parameters.push((key, value));
        }
        Some(parameters)
    }

    fn bare(&mut self) -> Option<Bare> {
        match self.peek()? {
            b'-' | b'0'..=b'9' => self.number(),
            b'"' => self.text().map(Bare::Text),
            b':' => self.bytes(),
            b'?' => {
                self.next();
                matches!(self.next()?, b'0' | b'1').then_some(Bare::Other)
            }
            b'@' => {
                self.next();
                matches!(self.number()?, Bare::Integer(_)).then_some(Bare::Other)
            }
            b'%' => {
                self.next();
                self.text()?;
                Some(Bare::Other)
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'*' => {
                self.take_while(|byte| {
                    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~:/".contains(&byte)
                });
                Some(Bare::Other)
            }
            _ => None,
        }
    }

    fn number(&mut self) -> Option<Bare> {
        let negative = self.eat(b'-');
        let whole = self.take_while(|byte| byte.is_ascii_digit());
        if self.eat(b'.') {
            let fraction = self.take_while(|byte| byte.is_ascii_digit());
            let valid = (1..=12).contains(&whole.len()) && (1..=3).contains(&fraction.len());
            return valid.then_some(Bare::Other);
        }
        if !(1..=15).contains(&whole.len()) {
            return None;
        }
        let number: i64 = whole.parse().ok()?;
        Some(Bare::Integer(if negative { -number } else { number }))
    }

    fn text(&mut self) -> Option<String> {
        self.expect(b'"')?;
        let mut text = String::new();
        loop {
            match self.next()? {
                b'"' => return Some(text),
                b'\\' => match self.next()? {
                    escaped @ (b'"' | b'\\') => text.push(char::from(escaped)),
                    _ => return None,
                },
                byte @ b' '..=b'~' => text.push(char::from(byte)),
                _ => return None,
            }
        }
    }

    fn bytes(&mut self) -> Option<Bare> {
        self.expect(b':')?;
        let base64 = self.take_while(|byte| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte));
        self.expect(b':')?;
        Some(Bare::Bytes(base64))
    }
}

/// Displays a string of a structured field. Characters that are not allowed become `_`.
pub(super) struct Text<'a>(pub(super) &'a str);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        use fmt::Write;
        f.write_char('"')?;
        for char in self.0.chars() {
            match char {
                '"' | '\\' => {
                    f.write_char('\\')?;
                    f.write_char(char)?;
                }
                ' '..='~' => f.write_char(char)?,
                _ => f.write_char('_')?,
            }
        }
        f.write_char('"')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_with_all_kinds_of_items() {
        let text =
            r#""a\"\\b";q=1;x;y=?1;z=a/b, tok;n=-5;d=1.5, (1 "x";p=2);l=@16, :YQ==:, %"x%20""#;
        let items = parse_list(text).unwrap();
        assert_eq!(items.len(), 5);
        assert_eq!(items[0].value, Bare::Text("a\"\\b".into()));
        assert_eq!(items[0].parameter("q"), Some(&Bare::Integer(1)));
        assert_eq!(items[1].parameter("n"), Some(&Bare::Integer(-5)));
        assert_eq!(items[3].value, Bare::Bytes("YQ==".into()));
        assert_eq!(parse_list("  "), Some(Vec::new()));
        let twice = parse_list(r#""a";q=1;q=2"#).unwrap();
        assert_eq!(twice[0].parameter("q"), Some(&Bare::Integer(2)));
    }

    #[test]
    fn malformed_lists_are_rejected() {
        for text in [
            "\"a",
            "\"a\";",
            "\"a\";Q=1",
            "\"a\";q=",
            "\"a\",",
            "\"a\" \"b\"",
            ",",
            "\"\\x\"",
            "\"é\"",
            "1234567890123456",
            "-",
            "1.",
            "1.2345",
            ":a",
            "?2",
            "(1 2",
            "(1\"a\")",
            "@1.5",
            "=",
            "\"a\";q=1;=2",
        ] {
            assert_eq!(parse_list(text), None, "{text}");
        }
    }
}
