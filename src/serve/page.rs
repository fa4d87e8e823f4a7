//! Pages of lists, as AIP-158 has them (<https://google.aip.dev/158>).
//!
//! A token names the last item of its page, so items that come and go meanwhile neither repeat nor
//! hide others; and it is bound to the request that it came from, so it cannot continue another.

use crate::engine::Error;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

/// About the most bytes of a page beyond its items' names. Those of the longest page can be 4 MB in
/// theory; clients take 4 MiB unless they are told.
const MAX_BYTES: usize = 1 << 20;

/// Which page is asked for.
pub(super) struct Page {
    /// At most so many items.
    pub(super) size: usize,
    /// The last item of the page before; none for the first page.
    pub(super) after: Option<String>,
    /// What the rest of the request says.
    request: String,
}

/// The sizes of a list's pages.
pub(super) struct Sizes {
    pub(super) default: usize,
    pub(super) max: usize,
}

impl Page {
    /// Reads a request's page; `request` is the rest of it in words.
    pub(super) fn new(
        size: i32,
        token: &str,
        sizes: &Sizes,
        request: String,
    ) -> Result<Self, Error> {
        let size = match usize::try_from(size) {
            Ok(0) => sizes.default,
            Ok(size) => size.min(sizes.max),
            Err(_) => {
                let message = format!("{size} is negative; leave it out for {}", sizes.default);
                return Err(Error::Invalid { field: "page_size", message });
            }
        };
        let after = Token::new(request.clone().into_bytes()).read(token)?;
        Ok(Self { size, after, request })
    }

    /// How many items to ask for: one more than the page takes tells whether there is another.
    pub(super) const fn limit(&self) -> usize {
        self.size + 1
    }

    /// Cuts the items to the page, fewer if they are large, and gives the next page's token; empty
    /// if this is the last. `bytes` is about how much an item takes beyond its names.
    pub(super) fn cut<T>(
        &self,
        items: &mut Vec<T>,
        bytes: impl Fn(&T) -> usize,
        key: impl Fn(&T) -> String,
    ) -> String {
        let mut sum = 0;
        let fitting = items.iter().take_while(|item| {
            let fits = sum < MAX_BYTES;
            sum += bytes(item);
            fits
        });
        let keep = fitting.count().min(self.size);
        if items.len() <= keep {
            return String::new();
        }
        items.truncate(keep);
        items
            .last()
            .map(|last| write_token(&key(last), self.request.as_bytes()))
            .unwrap_or_default()
    }
}

/// The token of an answer that has no size in items: what it goes on from, bound to its request.
pub(super) struct Token(Vec<u8>);

impl Token {
    /// For a request of which this is all but the token.
    pub(super) const fn new(request: Vec<u8>) -> Self {
        Self(request)
    }

    /// What the token says.
    pub(super) fn read(&self, token: &str) -> Result<Option<String>, Error> {
        if token.is_empty() {
            return Ok(None);
        }
        read_token(token, &self.0).map(Some).ok_or_else(wrong_token)
    }

    /// A token that says so.
    pub(super) fn write(&self, key: &str) -> String {
        write_token(key, &self.0)
    }
}

fn wrong_token() -> Error {
    let message = "does not continue this request; send next_page_token of its last page with the rest as \
                   it was, or none to start again";
    Error::Invalid { field: "page_token", message: message.to_owned() }
}

fn write_token(key: &str, request: &[u8]) -> String {
    let check = checksum(key, request).to_le_bytes();
    URL_SAFE_NO_PAD.encode([&check[..], key.as_bytes()].concat())
}

fn read_token(token: &str, request: &[u8]) -> Option<String> {
    let bytes = URL_SAFE_NO_PAD.decode(token).ok()?;
    let (check, key) = bytes.split_first_chunk::<4>()?;
    let key = String::from_utf8(key.to_vec()).ok()?;
    (u32::from_le_bytes(*check) == checksum(&key, request)).then_some(key)
}

fn checksum(key: &str, request: &[u8]) -> u32 {
    let mut hash = crc32fast::Hasher::new();
    hash.update(request);
    hash.update(&[0]);
    hash.update(key.as_bytes());
    hash.finalize()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes { default: 2, max: 3 };

    fn page(size: i32, token: &str, request: &str) -> Result<Page, Error> {
        Page::new(size, token, &SIZES, request.to_owned())
    }

    #[test]
    fn a_token_continues_its_own_request_only() {
        let first = page(0, "", "a").unwrap();
        let mut items = vec!["x", "y", "z"];
        let token = first.cut(&mut items, |_| 0, ToString::to_string);
        assert_eq!(items, ["x", "y"]);
        assert_eq!(page(0, &token, "a").unwrap().after.as_deref(), Some("y"));
        assert!(matches!(page(0, &token, "b"), Err(Error::Invalid { field: "page_token", .. })));
        assert!(page(0, "nonsense!", "a").is_err());
        let mut last = vec!["z"];
        assert_eq!(first.cut(&mut last, |_| 0, ToString::to_string), "");
    }

    #[test]
    fn a_page_of_large_items_is_shorter_and_never_empty() {
        let page = Page::new(0, "", &Sizes { default: 100, max: 100 }, String::new()).unwrap();
        let mut items: Vec<usize> = (0..50).collect();
        assert_ne!(page.cut(&mut items, |_| MAX_BYTES / 10, ToString::to_string), "");
        assert_eq!(items.len(), 11);
        let mut items = vec![1, 2];
        assert_ne!(page.cut(&mut items, |_| 9 * MAX_BYTES, ToString::to_string), "");
        assert_eq!(items, [1]);
    }

    #[test]
    fn a_size_is_defaulted_clamped_or_refused() {
        assert_eq!(page(0, "", "").unwrap().size, 2);
        assert_eq!(page(99, "", "").unwrap().size, 3);
        assert!(matches!(page(-1, "", ""), Err(Error::Invalid { field: "page_size", .. })));
    }
}
