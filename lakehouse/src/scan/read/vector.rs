//! Deletion vectors: the blob `deletion-vector-v1` of a Puffin file.
//! Source: Iceberg spec, "Deletion Vectors"; Puffin spec, "deletion-vector-v1 blob type".

use roaring::RoaringTreemap;

use chainalytics_common::{Error, ErrorCode, Result};

const MAGIC: [u8; 4] = [0xd1, 0xd3, 0x39, 0x64];

/// Reads a blob: length of what the checksum covers (4 bytes, big-endian), magic, bitmap, CRC-32 (big-endian).
pub fn decode(blob: &[u8], file: &str, rows: u64) -> Result<RoaringTreemap> {
    let broken = |what: &str| Error::new(ErrorCode::TableFormat, format!("deletion vector in {file}: {what}"));
    let (Some(length), Some(body), Some(crc)) = (blob.first_chunk::<4>(), blob.get(4..blob.len().saturating_sub(4)), blob.last_chunk::<4>()) else {
        return Err(broken("it is too short"));
    };
    if u32::from_be_bytes(*length) as usize != body.len() {
        return Err(broken("its length is wrong"));
    }
    if crc32fast::hash(body) != u32::from_be_bytes(*crc) {
        return Err(broken("its checksum is wrong"));
    }
    let bitmap = body.strip_prefix(&MAGIC).ok_or_else(|| broken("it does not begin as one"))?;
    let positions = RoaringTreemap::deserialize_from(bitmap).map_err(|e| broken(&e.to_string()))?;
    if positions.len() != rows {
        return Err(broken(&format!("it holds {} positions, the manifest says {rows}", positions.len())));
    }
    Ok(positions)
}

/// The inverse of [`decode`].
pub fn encode(positions: &RoaringTreemap) -> Result<Vec<u8>> {
    let failed = |e: std::io::Error| Error::new(ErrorCode::Internal, format!("a deletion vector: {e}"));
    let mut body = MAGIC.to_vec();
    positions.serialize_into(&mut body).map_err(failed)?;
    let length = u32::try_from(body.len()).map_err(|_| Error::new(ErrorCode::Unsupported, "a deletion vector of more than 4 GiB"))?;
    let crc = crc32fast::hash(&body);
    Ok([length.to_be_bytes().as_slice(), &body, &crc.to_be_bytes()].concat())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
    use super::*;

    #[test]
    fn what_is_encoded_decodes_and_damage_is_found() {
        let positions: RoaringTreemap = [0, 5, 70_000, 1 << 33].into_iter().collect();
        let blob = encode(&positions).unwrap();
        assert_eq!(decode(&blob, "f", 4).unwrap(), positions);
        assert!(decode(&blob, "f", 5).is_err());
        assert!(decode(&blob[..7], "f", 4).is_err());
        let mut damaged = blob.clone();
        damaged[12] ^= 1;
        assert!(decode(&damaged, "f", 4).unwrap_err().message().contains("checksum"));
    }
}
