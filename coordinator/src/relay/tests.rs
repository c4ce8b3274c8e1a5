use tokio_stream::wrappers::ReceiverStream;

use super::*;

/// One agent's end, as the agent holds it.
struct Agent {
    to_relay: Outbound,
    from_relay: mpsc::Receiver<Result<Bytes, Status>>,
}

fn leg() -> (Leg, Agent) {
    let (to_relay, inbound) = mpsc::channel(1);
    let (outbound, from_relay) = mpsc::channel(CHUNKS_WAITING);
    (Leg { inbound: ReceiverStream::new(inbound).boxed(), outbound }, Agent { to_relay, from_relay })
}

impl Agent {
    async fn send(&self, chunk: &'static [u8]) {
        self.to_relay.send(Ok(Bytes::from_static(chunk))).await.unwrap();
    }

    async fn hear(&mut self) -> Option<Vec<u8>> {
        self.from_relay.recv().await.map(|chunk| chunk.unwrap().to_vec())
    }
}

fn exchange() -> Exchange {
    Exchange::new(Clock, 3)
}

#[tokio::test]
async fn bytes_pass_both_ways_and_the_end_of_one_direction_is_not_that_of_the_other() {
    let ((asker, mut one), (acceptor, mut two)) = (leg(), leg());
    let carried = tokio::spawn(carry(asker, acceptor, drop));
    one.send(b"there").await;
    assert_eq!(two.hear().await.unwrap(), b"there");
    drop(one.to_relay);
    assert_eq!(two.hear().await, None, "the end of one direction is passed on");
    two.send(b"and back").await;
    assert_eq!(one.from_relay.recv().await.unwrap().unwrap(), b"and back"[..]);
    drop(two.to_relay);
    assert_eq!(one.from_relay.recv().await.map(Result::unwrap), None);
    assert_eq!(carried.await.unwrap().unwrap(), Carried { there_bytes: 5, back_bytes: 8 });
}

#[tokio::test]
async fn a_lost_end_ends_the_other() {
    let ((asker, mut one), (acceptor, two)) = (leg(), leg());
    let carried = tokio::spawn(carry(asker, acceptor, drop));
    two.to_relay.send(Err(Status::unavailable("reset"))).await.unwrap();
    assert!(one.from_relay.recv().await.unwrap().is_err(), "not an end in order");
    assert!(one.from_relay.recv().await.is_none());
    assert!(carried.await.unwrap().is_err());

    // Nobody reads any more, and nobody writes: noticed all the same.
    let ((asker, one), (acceptor, mut two)) = (leg(), leg());
    let carried = tokio::spawn(carry(asker, acceptor, drop));
    drop(one.from_relay);
    assert!(carried.await.unwrap().is_err());
    assert!(two.from_relay.recv().await.is_none());
}

#[tokio::test]
async fn a_reader_that_does_not_read_holds_the_writer_back() {
    let ((asker, one), (acceptor, mut two)) = (leg(), leg());
    let carried = tokio::spawn(carry(asker, acceptor, drop));
    let mut waiting = 0;
    // The last send never ends: every place on the way is taken by then.
    while Clock.timeout(Duration::from_millis(200), one.send(b"x")).await.is_ok() {
        waiting += 1;
        assert!(waiting < 100, "nothing holds the writer back");
    }
    assert!(waiting <= CHUNKS_WAITING + 2, "{waiting} chunks wait");
    for _ in 0..waiting {
        assert_eq!(two.hear().await.unwrap(), b"x");
    }
    carried.abort();
}

#[tokio::test]
async fn an_offer_is_accepted_once_and_by_its_agent() {
    let exchange = exchange();
    let offer = exchange.offer("berlin", "oslo").unwrap();
    let id = offer.id.to_string();
    let refused = |id: &str, agent: &str| exchange.accept(id, agent, leg().0).unwrap_err();
    let answers = [
        refused(&id, "berlin"),
        refused(&id, "rome"),
        refused(&Uuid::new_v4().to_string(), "oslo"),
        refused("1", "oslo"),
    ];
    exchange.accept(&id, "oslo", leg().0).unwrap();
    let twice = refused(&id, "oslo");
    assert_eq!(twice.reason, Reason::PeerRefused);
    assert!(answers.iter().all(|answer| *answer == twice), "one answer to everybody");
    let (_leg, place) = offer.accepted().await.unwrap();
    assert_eq!(lock(&exchange.state).total, 1);
    drop(place);
    assert_eq!(lock(&exchange.state).total, 0);
}

#[tokio::test]
async fn an_offer_that_was_given_up_cannot_be_accepted() {
    let exchange = exchange();
    let offer = exchange.offer("berlin", "oslo").unwrap();
    let id = offer.id.to_string();
    drop(offer);
    assert_eq!(exchange.accept(&id, "oslo", leg().0).unwrap_err().reason, Reason::PeerRefused);
    assert_eq!(lock(&exchange.state).total, 0);
}

#[test]
fn there_are_limits_for_each_agent_and_for_all() {
    let exchange = exchange();
    let mut offers: Vec<_> = (0..3).map(|_| exchange.offer("berlin", "oslo").unwrap()).collect();
    let many = exchange.offer("rome", "paris").unwrap_err();
    assert_eq!((many.reason, many.remedy), (Reason::PeerUnreachable, Remedy::Wait));
    offers.pop();
    exchange.offer("rome", "paris").unwrap();

    let exchange = Exchange::new(Clock, 1000);
    let _offers: Vec<_> = (0..RELAYS_OF_AN_AGENT).map(|_| exchange.offer("berlin", "oslo").unwrap()).collect();
    assert!(exchange.offer("rome", "oslo").unwrap_err().message.contains("oslo"));
    assert!(exchange.offer("berlin", "rome").unwrap_err().message.contains("berlin"));
    exchange.offer("rome", "paris").unwrap();

    assert_eq!(Exchange::new(Clock, 0).offer("berlin", "oslo").unwrap_err().remedy, Remedy::Operator);
}
