//! The page of the dashboard: three static files, the same for everybody, with no data in them.

/// A file of the page, with its type.
pub(super) fn file(path: &str) -> Option<(&'static str, &'static str)> {
    Some(match path {
        "/" => ("text/html; charset=utf-8", include_str!("page/index.html")),
        "/dashboard.css" => ("text/css; charset=utf-8", include_str!("page/dashboard.css")),
        "/dashboard.js" => ("text/javascript; charset=utf-8", include_str!("page/dashboard.js")),
        _ => return None,
    })
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a panic is how a test fails")]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_small_and_needs_no_markup_of_its_own() {
        let files = ["/", "/dashboard.css", "/dashboard.js"].map(|path| file(path).unwrap().1);
        assert!(files.iter().map(|text| text.len()).sum::<usize>() < 60 * 1024);
        // The content security policy would refuse these.
        for wrong in ["style=", "<style", "onclick=", "javascript:", "http://", "https://"] {
            assert!(!files[0].contains(wrong), "{wrong}");
        }
        for wrong in ["innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("] {
            assert!(!files[2].contains(wrong), "{wrong}");
        }
        assert_eq!(file("/page/index.html"), None);
    }
}
