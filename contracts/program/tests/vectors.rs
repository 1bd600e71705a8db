//! The golden vectors of contracts/vectors, read by the program's own parsers. Python reads the same files, and
//! tests/program/test_vectors.py runs them through the bytecode.

use std::{fs, path::Path};

use machpay::{ed25519::Attested, error::Error, voucher::Voucher};
use serde_json::Value;

const MESSAGE_LENGTH: usize = 60;

struct Intent {
    name: String,
    agent: Vec<u8>,
    channel: Vec<u8>,
    cumulative: u64,
    message: [u8; MESSAGE_LENGTH],
    signature: Vec<u8>,
}

fn intents() -> Vec<Intent> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../vectors/intents.json");
    let document: Value = serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap();
    let vectors = document["vectors"].as_array().unwrap();
    assert!(!vectors.is_empty());
    vectors.iter().map(intent).collect()
}

fn intent(vector: &Value) -> Intent {
    Intent {
        name: vector["name"].as_str().unwrap().to_owned(),
        agent: hex(&vector["agentHex"]),
        channel: hex(&vector["channelHex"]),
        cumulative: vector["cumulative"].as_str().unwrap().parse().unwrap(),
        message: hex(&vector["messageHex"]).try_into().unwrap(),
        signature: hex(&vector["signatureHex"]),
    }
}

fn hex(value: &Value) -> Vec<u8> {
    let text = value.as_str().unwrap();
    (0..text.len())
        .step_by(2)
        .map(|start| u8::from_str_radix(&text[start..start + 2], 16).unwrap())
        .collect()
}

/// The precompile's instruction data for these intents, in the one form the program accepts.
fn attestation(intents: &[&Intent]) -> Vec<u8> {
    let blocks = 2 + 14 * intents.len();
    let mut data = vec![intents.len() as u8, 0];
    for index in 0..intents.len() {
        let key = (blocks + 156 * index) as u16;
        for field in [key + 32, u16::MAX, key, u16::MAX, key + 96, 60, u16::MAX] {
            data.extend(field.to_le_bytes());
        }
    }
    for intent in intents {
        data.extend(&intent.agent);
        data.extend(&intent.signature);
        data.extend(intent.message);
    }
    data
}

#[test]
fn vouchers_of_the_vectors_are_read() {
    for intent in intents() {
        let voucher = Voucher::parse(&intent.message).unwrap();
        assert_eq!(
            voucher.channel().as_array()[..],
            intent.channel[..],
            "{}",
            intent.name
        );
        assert_eq!(voucher.cumulative(), intent.cumulative, "{}", intent.name);
    }
}

#[test]
fn every_change_to_a_vouchers_prefix_is_refused() {
    for intent in intents() {
        for byte in 0..4 {
            for bit in 0..8 {
                let mut message = intent.message;
                message[byte] ^= 1 << bit;
                assert!(matches!(
                    Voucher::parse(&message),
                    Err(Error::InvalidSignature)
                ));
            }
        }
    }
}

#[test]
fn attested_messages_come_back_in_their_order() {
    let intents = intents();
    let all: Vec<&Intent> = intents.iter().collect();
    let data = attestation(&all);
    let attested = Attested::<MESSAGE_LENGTH>::parse(&data, all.len()).unwrap();
    for (index, intent) in all.iter().enumerate() {
        let (signer, message) = attested.get(index).unwrap();
        assert_eq!(signer.as_array()[..], intent.agent[..]);
        assert_eq!(*message, intent.message);
    }
    assert_eq!(
        attested.get(all.len()).unwrap_err(),
        Error::InvalidSignature
    );
}

#[test]
fn every_single_bit_of_header_and_table_matters() {
    let intents = intents();
    for count in 1..=3 {
        let some: Vec<&Intent> = intents.iter().take(count).collect();
        let data = attestation(&some);
        for position in 0..2 + 14 * count {
            for bit in 0..8 {
                let mut changed = data.clone();
                changed[position] ^= 1 << bit;
                let error = Attested::<MESSAGE_LENGTH>::parse(&changed, count).unwrap_err();
                assert_eq!(error, Error::InvalidSignature, "byte {position} bit {bit}");
            }
        }
    }
}

#[test]
fn every_other_length_is_refused() {
    let intents = intents();
    let mut data = attestation(&[&intents[0]]);
    data.push(0);
    for length in (0..data.len() - 1).chain([data.len()]) {
        assert!(
            Attested::<MESSAGE_LENGTH>::parse(&data[..length], 1).is_err(),
            "{length} bytes"
        );
    }
    assert!(Attested::<MESSAGE_LENGTH>::parse(&data[..data.len() - 1], 2).is_err());
    assert!(Attested::<MESSAGE_LENGTH>::parse(&data[..data.len() - 1], 0).is_err());
}

#[test]
fn error_numbers_are_distinct_and_in_order() {
    let numbers: Vec<u32> = Error::ALL.iter().map(|(number, _, _)| *number).collect();
    assert_eq!(numbers[0], 0x100);
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]));
}
