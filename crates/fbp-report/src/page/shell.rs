/// A whole page that needs no other file; `title` is plain text, `body` HTML.
pub(crate) fn document(title: &str, body: &str) -> String {
    let title = super::escape(title);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <title>{title}</title>\n\
         <style>\n{}</style></head><body>\n<h1>{title}</h1>\n{body}</body></html>\n",
        include_str!("style.css")
    )
}
