use super::*;

fn assert_send_sync<T: Send + Sync>() {}

#[test]
fn public_types_can_be_shared_between_threads() {
    assert_send_sync::<Network>();
    assert_send_sync::<Checkpoint>();
    assert_send_sync::<AdamW>();
    assert_send_sync::<ModelError>();
    assert_send_sync::<weights::StateDict>();
}
