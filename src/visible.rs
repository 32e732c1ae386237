//! Characters of texts from the network that act on what shows them: one list for library and programs.
//!
//! Not part of the library's interface; it may change at any time.

/// Whether a character is a control (C0, DEL, C1), or one of the invisible ones that break lines,
/// reorder text or hide in it. The joiners U+200C and U+200D are not: languages and emoji need them.
#[must_use]
pub fn acts_on_a_terminal(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e007f}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readable_characters_do_not_act() {
        assert!(!"aü日本 👩\u{200d}💻\"\\".chars().any(acts_on_a_terminal));
        for character in
            ['\n', '\u{1b}', '\u{7f}', '\u{9b}', '\u{200f}', '\u{2028}', '\u{202e}', '\u{2066}', '\u{e0041}']
        {
            assert!(acts_on_a_terminal(character), "{character:?}");
        }
    }
}
