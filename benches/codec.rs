//! The cost of decoding and encoding a PUBLISH, by size and by how the bytes arrive.
//!
//! `cargo bench --bench codec`, or a part of it: `cargo bench --bench codec -- decode`

#![allow(missing_docs, reason = "criterion_group! makes an undocumented function")]
#![allow(clippy::unwrap_used, reason = "a benchmark that fails must stop")]

use std::{
    hint::black_box,
    time::{Duration, Instant},
};

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use hpfeeds::wire::{Channel, Codec, FrameRef, Frames, HEADER_LEN, Header, Ident, Limits, encode_publish};
use tokio_util::codec::{Decoder as _, Encoder as _};

const SIZES: [(&str, usize); 5] =
    [("32 B", 32), ("256 B", 256), ("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)];

/// How much input is prepared at once: like a read buffer, it stays in the processor's cache.
const BATCH: usize = 64 << 10;

/// A payload of 1 MiB needs room for the names besides.
const LIMITS: Limits = Limits::new(2 << 20);

fn ident() -> Ident {
    Ident::new("sensor-17").unwrap()
}

fn channel(n: usize) -> Channel {
    Channel::new(["cowrie.sessions", "dionaea.capture"][n % 2]).unwrap()
}

/// As many frames as fit into a batch, on one channel or on two by turns; at least one.
fn batch(payload: usize, channels: usize) -> (Vec<u8>, usize) {
    let mut bytes = BytesMut::new();
    let mut frames = 0;
    while frames == 0 || bytes.len() + bytes.len() / frames <= BATCH {
        encode_publish(&mut bytes, LIMITS, &ident(), &channel(frames % channels), &vec![0xa5; payload]).unwrap();
        frames += 1;
    }
    (bytes.to_vec(), frames)
}

/// Of one frame. Decoding does not look at payloads: what counts there are the elements.
fn throughput(input: &[u8], frames: usize) -> Throughput {
    Throughput::ElementsAndBytes { elements: 1, bytes: (input.len() / frames) as u64 }
}

/// Times `frames` decoded frames; filling the read buffer is not part of it.
fn time_decode(input: &[u8], frames: u64) -> Duration {
    let mut codec = Codec::new(LIMITS);
    let mut src = BytesMut::new();
    let (mut done, mut total) = (0, Duration::ZERO);
    while done < frames {
        src.reserve(input.len());
        src.extend_from_slice(input);
        let start = Instant::now();
        // By reference: moving the frame would be measured too.
        while done < frames && matches!(black_box(&codec.decode(&mut src)), Ok(Some(_))) {
            done += 1;
        }
        total += start.elapsed();
        src.clear();
    }
    total
}

fn decode(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode: Codec");
    for (name, size) in SIZES {
        let (input, frames) = batch(size, 1);
        group.throughput(throughput(&input, frames));
        group.bench_function(name, |b| b.iter_custom(|frames| time_decode(&input, frames)));
    }
    let (input, frames) = batch(256, 2);
    group.throughput(throughput(&input, frames));
    group.bench_function("256 B, two channels by turns", |b| b.iter_custom(|frames| time_decode(&input, frames)));
    group.finish();

    let mut group = c.benchmark_group("decode: Frames");
    for (name, size) in SIZES {
        let (input, frames) = batch(size, 1);
        group.throughput(throughput(&input, frames));
        group.bench_function(name, |b| {
            let mut frames = Frames::new(&input, LIMITS);
            b.iter(|| {
                if frames.rest().is_empty() {
                    frames = Frames::new(&input, LIMITS);
                }
                black_box(&frames.next().unwrap().unwrap());
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("decode: FrameRef");
    for (name, size) in SIZES {
        let (input, frames) = batch(size, 1);
        group.throughput(throughput(&input, frames));
        group.bench_function(name, |b| {
            // From one frame to the next: a single one would always be aligned in the same, perhaps lucky, way.
            let mut rest = &input[..];
            b.iter(|| {
                if rest.is_empty() {
                    rest = &input;
                }
                let header = Header::parse(rest, LIMITS).unwrap().unwrap();
                black_box(FrameRef::parse(header.opcode, &rest[HEADER_LEN..header.length]).unwrap());
                rest = &rest[header.length..];
            });
        });
    }
    group.finish();
}

/// Copying the pieces into the read buffer is part of it: how often a frame is moved is what pieces change.
fn fragments(c: &mut Criterion) {
    let mut group = c.benchmark_group("decode in pieces: Codec");
    for (name, size) in [("256 B", 256), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)] {
        let (input, frames) = batch(size, 1);
        group.throughput(Throughput::Bytes(input.len() as u64));
        for (pieces, piece) in [("whole", input.len()), ("1460 B", 1460), ("16 KiB", 16 << 10)] {
            group.bench_function(BenchmarkId::new(name, pieces), |b| {
                let mut codec = Codec::new(LIMITS);
                let mut src = BytesMut::new();
                b.iter(|| {
                    let mut found = 0;
                    for piece in input.chunks(piece) {
                        src.extend_from_slice(piece);
                        while matches!(black_box(&codec.decode(&mut src)), Ok(Some(_))) {
                            found += 1;
                        }
                    }
                    assert_eq!(found, frames);
                });
            });
        }
    }
    group.finish();
}

fn encode(c: &mut Criterion) {
    let mut group = c.benchmark_group("encode: Codec");
    for (name, size) in SIZES {
        let (input, frames) = batch(size, 1);
        let mut codec = Codec::new(LIMITS);
        let frame = codec.decode(&mut BytesMut::from(&input[..])).unwrap().unwrap();
        let mut dst = BytesMut::with_capacity(input.len() / frames);
        group.throughput(throughput(&input, frames));
        group.bench_function(name, |b| {
            b.iter(|| {
                dst.clear();
                codec.encode(black_box(&frame), &mut dst).unwrap();
                black_box(&dst);
            });
        });
    }
    group.finish();

    let mut group = c.benchmark_group("encode: encode_publish");
    let (ident, channel) = (ident(), channel(0));
    for (name, size) in SIZES {
        let payload = vec![0xa5; size];
        let mut dst = BytesMut::new();
        group.throughput(Throughput::Bytes(size as u64));
        group.bench_function(name, |b| {
            b.iter(|| {
                dst.clear();
                encode_publish(&mut dst, LIMITS, &ident, &channel, black_box(&payload)).unwrap();
                black_box(&dst);
            });
        });
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(300)).measurement_time(Duration::from_secs(1));
    targets = decode, fragments, encode
}
criterion_main!(benches);
