//! Bodies: a request's, kept while it streams so that the request can be repeated; an answer's, passed on as it comes.

use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};

use super::upstream::InFlight;

/// Why a body ended before its time.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The other side's fault.
    #[error(transparent)]
    Hyper(#[from] hyper::Error),
    /// A later attempt has taken the body over.
    #[error("the request was repeated")]
    Overtaken,
}

/// A request's body: it streams through, and what has passed is kept for as long as it is no more than a limit.
#[derive(Clone, Debug)]
pub struct Kept<B = Incoming>(pub(super) Option<Arc<Mutex<Tape<B>>>>);

#[derive(Debug)]
pub(super) struct Tape<B> {
    incoming: B,
    /// What has passed, in order; empty when it was too much.
    frames: Vec<Frame<Bytes>>,
    size: usize,
    limit: usize,
    is_too_large: bool,
    has_ended: bool,
    /// Which of the attempts may read on.
    attempt: usize,
}

impl<B: Body<Data = Bytes> + Unpin> Kept<B> {
    /// Keeps no more than `limit` bytes.
    pub fn new(incoming: B, limit: usize) -> Self {
        if incoming.is_end_stream() {
            return Self(None);
        }
        Self(Some(Arc::new(Mutex::new(Tape {
            incoming,
            frames: Vec::new(),
            size: 0,
            limit,
            is_too_large: false,
            has_ended: false,
            attempt: 0,
        }))))
    }

    /// Whether all of it can be sent again.
    pub fn can_be_repeated(&self) -> bool {
        self.0.as_ref().is_none_or(|tape| !lock(tape).is_too_large)
    }

    /// The body from its beginning, for one attempt. Earlier attempts get no more of it.
    pub fn play(&self) -> Playing<B> {
        let Some(tape) = &self.0 else { return Playing(None) };
        let attempt = {
            let mut tape = lock(tape);
            tape.attempt += 1;
            tape.attempt
        };
        Playing(Some(Player { tape: Arc::clone(tape), attempt, position: 0 }))
    }
}

fn lock<B>(tape: &Mutex<Tape<B>>) -> std::sync::MutexGuard<'_, Tape<B>> {
    tape.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A [`Kept`] body on its way.
#[derive(Debug)]
pub struct Playing<B = Incoming>(Option<Player<B>>);

#[derive(Debug)]
struct Player<B> {
    tape: Arc<Mutex<Tape<B>>>,
    attempt: usize,
    position: usize,
}

impl<B: Body<Data = Bytes> + Unpin> Body for Playing<B>
where
    BodyError: From<B::Error>,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Some(player) = &mut self.0 else { return Poll::Ready(None) };
        let mut tape = lock(&player.tape);
        if tape.attempt != player.attempt {
            return Poll::Ready(Some(Err(BodyError::Overtaken)));
        }
        if let Some(frame) = tape.frames.get(player.position) {
            let frame = copy(frame);
            player.position += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if tape.has_ended {
            return Poll::Ready(None);
        }
        match Pin::new(&mut tape.incoming).poll_frame(context) {
            Poll::Ready(Some(Ok(frame))) => {
                tape.keep(&frame);
                player.position = tape.frames.len();
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(None) => {
                tape.has_ended = true;
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(error))) => Poll::Ready(Some(Err(error.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_end_stream(&self) -> bool {
        let Some(player) = &self.0 else { return true };
        let tape = lock(&player.tape);
        player.position >= tape.frames.len() && (tape.has_ended || tape.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let Some(player) = &self.0 else { return SizeHint::with_exact(0) };
        let tape = lock(&player.tape);
        let still: usize = tape.frames.iter().skip(player.position).filter_map(Frame::data_ref).map(Bytes::len).sum();
        let rest = tape.incoming.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + still as u64);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + still as u64);
        }
        hint
    }
}

impl<B> Tape<B> {
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if self.is_too_large {
            return;
        }
        self.size += frame.data_ref().map_or(0, Bytes::len);
        if self.size > self.limit {
            self.is_too_large = true;
            self.frames = Vec::new();
        } else {
            self.frames.push(copy(frame));
        }
    }
}

/// The same frame; its bytes are shared.
fn copy(frame: &Frame<Bytes>) -> Frame<Bytes> {
    match (frame.data_ref(), frame.trailers_ref()) {
        (Some(data), _) => Frame::data(data.clone()),
        (None, Some(trailers)) => Frame::trailers(trailers.clone()),
        (None, None) => Frame::data(Bytes::new()),
    }
}

/// An answer's body.
#[derive(Debug)]
pub enum Answer {
    /// The API server's, as it comes.
    Passing {
        /// It.
        incoming: Incoming,
        /// Its place on the connection.
        _in_flight: InFlight,
    },
    /// One that was looked into first: what was read, then the rest.
    Seen {
        /// What was read.
        seen: Option<Bytes>,
        /// The rest.
        incoming: Incoming,
        /// Its place on the connection.
        _in_flight: InFlight,
    },
    /// Ours, or one that was read to its end.
    Whole(Full<Bytes>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        match self.get_mut() {
            Self::Passing { incoming, .. } => Pin::new(incoming).poll_frame(context),
            Self::Seen { seen, incoming, .. } => match seen.take() {
                Some(bytes) => Poll::Ready(Some(Ok(Frame::data(bytes)))),
                None => Pin::new(incoming).poll_frame(context),
            },
            Self::Whole(whole) => Pin::new(whole).poll_frame(context).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing { incoming, .. } => incoming.is_end_stream(),
            Self::Seen { seen, incoming, .. } => seen.is_none() && incoming.is_end_stream(),
            Self::Whole(whole) => whole.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passing { incoming, .. } => incoming.size_hint(),
            // The header that came with it says how long it is, if anything does.
            Self::Seen { .. } => SizeHint::default(),
            Self::Whole(whole) => whole.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;
    use std::convert::Infallible;

    use super::*;

    impl From<Infallible> for BodyError {
        fn from(never: Infallible) -> Self {
            match never {}
        }
    }

    /// Gives one piece at a time, and has nothing to give where there is `None`.
    struct Pieces(VecDeque<Option<&'static str>>);

    impl Body for Pieces {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            match self.0.pop_front() {
                Some(Some(piece)) => Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(piece.as_bytes()))))),
                Some(None) => Poll::Pending,
                None => Poll::Ready(None),
            }
        }
    }

    fn kept(pieces: &[Option<&'static str>], limit: usize) -> Kept<Pieces> {
        Kept::new(Pieces(pieces.iter().copied().collect()), limit)
    }

    /// What comes out until nothing more does, and whether that is the end.
    fn read(playing: &mut Playing<Pieces>) -> (String, bool) {
        let mut text = String::new();
        let mut context = Context::from_waker(std::task::Waker::noop());
        loop {
            match Pin::new(&mut *playing).poll_frame(&mut context) {
                Poll::Ready(Some(Ok(frame))) => {
                    text.push_str(std::str::from_utf8(frame.data_ref().unwrap()).unwrap());
                }
                Poll::Ready(None) => return (text, true),
                Poll::Ready(Some(Err(_))) | Poll::Pending => return (text, false),
            }
        }
    }

    #[test]
    fn a_body_is_repeated_from_its_beginning_even_if_it_is_still_on_its_way() {
        let kept = kept(&[Some("a"), Some("b"), None, Some("c")], 10);
        let mut first = kept.play();
        assert_eq!(read(&mut first), ("ab".to_owned(), false));
        let mut second = kept.play();
        assert_eq!(read(&mut first), (String::new(), false), "the first attempt is over");
        assert_eq!(read(&mut second), ("abc".to_owned(), true));
        assert_eq!(read(&mut kept.play()), ("abc".to_owned(), true));
        assert!(kept.can_be_repeated());
    }

    #[test]
    fn no_more_than_the_limit_is_kept() {
        let kept = kept(&[Some("ab"), Some("cd"), Some("ef")], 4);
        assert_eq!(read(&mut kept.play()), ("abcdef".to_owned(), true), "it passes all the same");
        assert!(!kept.can_be_repeated());
        assert!(lock(kept.0.as_ref().unwrap()).frames.is_empty());
        let just = self::kept(&[Some("ab"), Some("cd")], 4);
        assert_eq!(read(&mut just.play()).0, "abcd");
        assert!(just.can_be_repeated());
    }

    #[test]
    fn size_is_what_is_still_to_come() {
        let kept = Kept::new(Full::new(Bytes::from_static(b"abc")), 10);
        assert_eq!(kept.play().size_hint().exact(), Some(3));
        let nothing = Kept::new(Full::new(Bytes::new()), 10);
        assert!(nothing.0.is_none() && nothing.play().is_end_stream());
    }
}
