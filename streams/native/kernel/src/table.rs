//! The keyed state of one source partition: committed rows, and in front of them one layer per uncommitted call.
//!
//! Every `process` or `snapshots` call opens a layer under its own mark, a serial that only grows. A key's slot points at
//! the newest version; a layer holds the versions written under its mark, one per key, in one arena. [`Table::commit`]
//! folds layers oldest first, [`Table::drop_pending`] throws all of them away: both touch what changed and nothing else.
//!
//! Key and committed row of a slot share one exact allocation: a million keys of 330-byte messages take about 560 MB, and
//! comparing a key brings the row's header into the cache.
//!
//! A table that is not resident (a store holds the rows) keeps only the keys of the chunks in work: [`Table::evict`],
//! then [`Table::load`] whatever a chunk needs, then the call itself. A key that was not loaded is an error, never
//! "absent". Rows that [`Table::commit`] returned stay until the *next* commit, so that a store may write them while the
//! next chunk is prepared.

use std::collections::{BTreeSet, VecDeque};

use hashbrown::HashTable;

use crate::index_hash;
use crate::partition::PARTITION_KEY;
use crate::records::{Records, RecordsError};
use crate::row::{deleted_at, is_tombstone, version, Order, RowError, RESERVED_PREFIX, SCHEMA_KEY};

/// Arenas of folded layers kept for the next ones: one per layer of two open transactions is more than is ever idle.
const SPARE_MAX: usize = 4;
/// What the allocator keeps beside a slot's bytes and rounds them up by, in the mean.
const ALLOCATION_BYTES: usize = 16;
/// An entry of the queue of tombstones: 16 bytes of its own in nodes that are two thirds full.
const QUEUED_BYTES: usize = 28;
/// An arena that one chunk has blown up (large states behind small compressed events) goes back to the system: four times
/// what a chunk of the usual 8 MiB asks for.
const SPARE_BYTES_MAX: usize = 32 << 20;
/// Header of a changelog record without a value: the fence of the owner that removed the row, four bytes, little-endian.
pub const FENCE_HEADER: &[u8] = b"fence";
/// Bytes that arrive from memory together, on every machine this runs on.
const CACHE_LINE: usize = 64;

/// Where an uncommitted version lies: mark 0 is no version.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Version {
    mark: u64,
    index: u32,
}

impl Version {
    const NONE: Version = Version { mark: 0, index: 0 };
}

struct Slot {
    /// The key, then the committed row; a row is never empty.
    data: Box<[u8]>,
    key_len: u32,
    /// The commit that folded this slot last; 0: never. Only used where the table is not resident.
    folded: u32,
    pending: Version,
    /// Events of this key dropped in a row.
    drops: u16,
}

impl Slot {
    fn key(&self) -> &[u8] {
        &self.data[..self.key_len as usize]
    }
    fn row(&self) -> Option<&[u8]> {
        let row = &self.data[self.key_len as usize..];
        (!row.is_empty()).then_some(row)
    }
}

#[derive(Clone, Copy)]
struct Probe {
    hash: u32,
    slot: u32,
}

/// A version of one key under one mark. Length 0: the row is removed.
struct Dirty {
    slot: u32,
    len: u32,
    start: usize,
    previous: Version,
    /// Mark of the next version of this key; 0: this is the newest.
    superseded_by: u64,
}

#[derive(Default)]
struct Layer {
    mark: u64,
    bytes: Vec<u8>,
    dirty: Vec<Dirty>,
    /// Tombstones it made, less those it removed.
    tombstones: isize,
    key_bytes: usize,
    /// Queue entries taken under this mark; they return when the layer is dropped.
    due: Vec<(u64, u32)>,
}

impl Layer {
    fn row(&self, index: u32) -> Option<&[u8]> {
        let dirty = &self.dirty[index as usize];
        (dirty.len > 0).then(|| &self.bytes[dirty.start..dirty.start + dirty.len as usize])
    }
}

/// Result of a look-up: the slot if the key has one, and its hash so that inserting need not hash again.
#[derive(Clone, Copy, Debug)]
pub struct Place {
    hash: u32,
    pub slot: Option<u32>,
}

/// A key whose committed row became a tombstone, or stopped being one.
struct Moved {
    key: Box<[u8]>,
    deleted_at_ms: u64,
    is_made: bool,
}

/// What became of a changelog record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restored {
    /// It is the row now.
    Taken,
    /// It is the row now, though one that an owner before it wrote without knowing of it was a later version.
    Corrected(Order),
    /// The row held is a later version.
    Older,
    /// An owner wrote it that was none any more.
    Fenced,
}

/// See the module's text.
pub struct Table {
    resident: bool,
    /// Of the index: see [`Table::seeded`].
    seed: u64,
    /// Fence of the owner, on changelog records that remove a row; 0: none is written.
    fence: u32,
    /// The changelog is an older release's: the partition record stays in here.
    hides_partition: bool,
    index: HashTable<Probe>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    layers: VecDeque<Layer>,
    last_mark: u64,
    spare: Vec<Vec<u8>>,
    /// Deleted-at and slot of the committed rows here that are tombstones, oldest first: one entry a key, however often it
    /// was deleted. Without those that an uncommitted call has looked at.
    queue: BTreeSet<(u64, u32)>,
    /// Tombstones among the newest versions of all keys, those that only a store holds included.
    tombstones: usize,
    /// What commits changed in the tombstones that a store holds (not resident only).
    moved: Vec<Moved>,
    /// Slots that restore changed and the next commit returns (not resident only).
    restored: Vec<u32>,
    commits: u32,
    rows: usize,
    bytes: usize,
    epoch_floor: u64,
}

/// Spreads 32 kept bits of the key's hash over the 64 that the index wants, so that it grows without reading keys.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

impl Table {
    pub fn new(resident: bool) -> Table {
        Table {
            resident,
            seed: 0,
            fence: 0,
            hides_partition: false,
            index: HashTable::new(),
            slots: Vec::new(),
            free: Vec::new(),
            layers: VecDeque::new(),
            last_mark: 0,
            spare: Vec::new(),
            queue: BTreeSet::new(),
            tombstones: 0,
            moved: Vec::new(),
            restored: Vec::new(),
            commits: 0,
            rows: 0,
            bytes: 0,
            epoch_floor: 0,
        }
    }

    /// The same table, still empty, indexed under this seed: whoever writes keys must not know it, or could choose keys
    /// that fall together, and each look-up would cost as many steps as there are of them.
    pub fn seeded(self, seed: u64) -> Table {
        Table { seed, ..self }
    }

    pub fn is_resident(&self) -> bool {
        self.resident
    }
    /// From now on this owner writes: with its fence, and the partition record only where the changelog may have one.
    pub fn set_owner(&mut self, fence: u32, hides_partition: bool) {
        (self.fence, self.hides_partition) = (fence, hides_partition);
    }
    pub fn hides_partition(&self) -> bool {
        self.hides_partition
    }
    /// Mark of the newest layer; 0: there is none.
    pub fn newest_mark(&self) -> u64 {
        self.layers.back().map_or(0, |layer| layer.mark)
    }
    /// Number of committed rows, tombstones included, the schema record and the partition record not.
    pub fn len(&self) -> usize {
        let reserved = [SCHEMA_KEY, PARTITION_KEY].into_iter().filter(|key| self.get(key).is_some());
        self.rows - reserved.count()
    }
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
    /// Bytes of keys, rows, layers and the structures around them.
    pub fn nbytes(&self) -> usize {
        let layer = |layer: &Layer| {
            let due = layer.due.capacity() * size_of::<(u64, u32)>();
            layer.bytes.capacity() + layer.dirty.capacity() * size_of::<Dirty>() + due
        };
        let layers: usize = self.layers.iter().map(layer).sum();
        let spare: usize = self.spare.iter().map(Vec::capacity).sum();
        let slots = self.slots.capacity() * size_of::<Slot>() + self.index.len() * ALLOCATION_BYTES;
        let lists = (self.free.capacity() + self.restored.capacity()) * size_of::<u32>();
        let moved: usize = self.moved.iter().map(|moved| size_of::<Moved>() + moved.key.len()).sum();
        let queue = self.queue.len() * QUEUED_BYTES;
        self.bytes + layers + spare + slots + lists + moved + queue + self.index.allocation_size()
    }
    /// Keys whose newest version is a tombstone.
    pub fn tombstones(&self) -> usize {
        self.tombstones
    }
    /// How many of them the store holds that this table begins with (not resident only).
    pub fn set_tombstones(&mut self, count: usize) {
        self.tombstones = count;
    }
    /// Highest epoch of any row that went; a key that is created anew must be above it.
    pub fn epoch_floor(&self) -> u64 {
        self.epoch_floor
    }
    pub fn raise_epoch_floor(&mut self, epoch: u64) {
        self.epoch_floor = self.epoch_floor.max(epoch);
    }

    // Looking up and writing ------------------------------------------------------------------------------------------

    pub fn find(&self, key: &[u8]) -> Place {
        let hash = index_hash(self.seed, key);
        let same = |probe: &Probe| probe.hash == hash && self.slots[probe.slot as usize].key() == key;
        Place { hash, slot: self.index.find(spread(hash), same).map(|probe| probe.slot) }
    }

    /// The newest version of a slot, committed or not.
    pub fn newest(&self, slot: u32) -> Option<&[u8]> {
        let slot = &self.slots[slot as usize];
        match self.layer_at(slot.pending.mark) {
            Some(at) => self.layers[at].row(slot.pending.index),
            None => slot.row(),
        }
    }

    /// Touches what a later [`Table::find`] and [`Table::newest`] of these keys will read. One after the other each would
    /// wait for memory alone; here the waits overlap. Answers a sum that means nothing but keeps the reads.
    pub fn warm<'k>(&self, keys: impl Iterator<Item = &'k [u8]>) -> u64 {
        let rows = keys.filter_map(|key| self.newest(self.find(key).slot?));
        rows.map(|row| row.iter().step_by(CACHE_LINE).map(|byte| u64::from(*byte)).sum::<u64>()).sum()
    }

    /// Counts one more dropped event of a key; how many it makes in a row.
    pub fn count_drop(&mut self, slot: u32) -> u16 {
        let drops = &mut self.slots[slot as usize].drops;
        *drops = drops.saturating_add(1);
        *drops
    }

    /// Opens a layer; `bytes` is a guess of what will be written.
    pub fn begin(&mut self, bytes: usize) -> u64 {
        self.last_mark += 1;
        let mut arena = self.spare.pop().unwrap_or_default();
        arena.reserve(bytes);
        self.layers.push_back(Layer { mark: self.last_mark, bytes: arena, ..Layer::default() });
        self.last_mark
    }

    /// Keys changed under the newest mark.
    pub fn changed(&self) -> usize {
        self.layers.back().map_or(0, |layer| layer.dirty.len())
    }

    /// Bytes of the rows written under the newest mark and of their keys: as much as its changelog can have.
    pub fn changed_bytes(&self) -> usize {
        self.layers.back().map_or(0, |layer| layer.bytes.len() + layer.key_bytes)
    }

    /// Writes a version under the newest mark; None removes the row. Creates the slot where there is none.
    pub fn write(&mut self, place: Place, key: &[u8], row: Option<&[u8]>) -> u32 {
        let index = place.slot.unwrap_or_else(|| self.create(place.hash, key));
        let pending = self.slots[index as usize].pending;
        let before = self.layer_at(pending.mark);
        let bytes = row.unwrap_or_default();
        if row.is_some() {
            self.slots[index as usize].drops = 0;
        }
        self.count_tombstones(self.newest(index).is_some_and(is_tombstone), is_tombstone(bytes));
        let Some(last) = self.layers.len().checked_sub(1) else { return index };
        let layer = &mut self.layers[last];
        if before == Some(last) {
            let dirty = &mut layer.dirty[pending.index as usize];
            if dirty.len as usize == bytes.len() {
                layer.bytes[dirty.start..dirty.start + bytes.len()].copy_from_slice(bytes);
                return index;
            }
            (dirty.start, dirty.len) = (layer.bytes.len(), bytes.len() as u32);
            layer.bytes.extend_from_slice(bytes);
            return index;
        }
        layer.key_bytes += key.len();
        let version = Version { mark: layer.mark, index: layer.dirty.len() as u32 };
        layer.dirty.push(Dirty {
            slot: index,
            len: bytes.len() as u32,
            start: layer.bytes.len(),
            previous: pending,
            superseded_by: 0,
        });
        layer.bytes.extend_from_slice(bytes);
        self.slots[index as usize].pending = version;
        if let Some(before) = before {
            self.layers[before].dirty[pending.index as usize].superseded_by = version.mark;
        }
        index
    }

    #[inline]
    fn count_tombstones(&mut self, before: bool, after: bool) {
        if before != after {
            let made = isize::from(after) - isize::from(before);
            self.tombstones = self.tombstones.saturating_add_signed(made);
            if let Some(layer) = self.layers.back_mut() {
                layer.tombstones += made;
            }
        }
    }

    fn layer_at(&self, mark: u64) -> Option<usize> {
        // Marks of the layers are consecutive; 0 is no mark.
        let first = self.layers.front()?.mark;
        mark.checked_sub(first).map(|at| at as usize)
    }

    fn create(&mut self, hash: u32, key: &[u8]) -> u32 {
        let slot = Slot { data: key.into(), key_len: key.len() as u32, folded: 0, pending: Version::NONE, drops: 0 };
        self.bytes += key.len();
        let index = match self.free.pop() {
            Some(index) => {
                self.slots[index as usize] = slot;
                index
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.index.insert_unique(spread(hash), Probe { hash, slot: index }, |probe| spread(probe.hash));
        index
    }

    fn remove(&mut self, index: u32) {
        let data = std::mem::take(&mut self.slots[index as usize].data);
        let key_len = std::mem::take(&mut self.slots[index as usize].key_len) as usize;
        self.bytes -= data.len();
        self.rows -= usize::from(data.len() > key_len);
        if let Some(deleted_at_ms) = deleted_at(&data[key_len..]) {
            self.queue.remove(&(deleted_at_ms, index));
        }
        let hash = index_hash(self.seed, &data[..key_len]);
        if let Ok(entry) = self.index.find_entry(spread(hash), |probe| probe.slot == index) {
            entry.remove();
        }
        self.free.push(index);
    }

    /// Makes a row the committed one, and notes what that moves in the tombstones of a store.
    fn set_committed(&mut self, index: u32, row: Option<&[u8]>) {
        let held = self.slots[index as usize].row();
        if held.is_some_and(is_tombstone) || row.is_some_and(is_tombstone) {
            let (before, after) = self.requeue(index, row);
            if !self.resident && before != after {
                for (deleted_at_ms, is_made) in [(before, false), (after, true)] {
                    let Some(deleted_at_ms) = deleted_at_ms else { continue };
                    let key = self.slots[index as usize].key().into();
                    self.moved.push(Moved { key, deleted_at_ms, is_made });
                }
            }
        }
        self.hold(index, row);
    }

    /// Before `row` becomes the committed one: the queue has what is a tombstone then. When the row that goes was deleted,
    /// and the one that comes.
    fn requeue(&mut self, index: u32, row: Option<&[u8]>) -> (Option<u64>, Option<u64>) {
        let (before, after) = (self.slots[index as usize].row().and_then(deleted_at), row.and_then(deleted_at));
        if before != after {
            before.map(|deleted_at_ms| self.queue.remove(&(deleted_at_ms, index)));
            after.map(|deleted_at_ms| self.queue.insert((deleted_at_ms, index)));
        }
        (before, after)
    }

    fn hold(&mut self, index: u32, row: Option<&[u8]>) {
        let slot = &mut self.slots[index as usize];
        let row = row.unwrap_or_default();
        let key_len = slot.key_len as usize;
        let was = slot.data.len() - key_len;
        if was == row.len() {
            slot.data[key_len..].copy_from_slice(row);
            return;
        }
        let mut data = Vec::with_capacity(key_len + row.len());
        data.extend_from_slice(slot.key());
        data.extend_from_slice(row);
        slot.data = data.into_boxed_slice();
        self.bytes = self.bytes + row.len() - was;
        self.rows = self.rows + usize::from(!row.is_empty()) - usize::from(was > 0);
    }

    // Layers ----------------------------------------------------------------------------------------------------------

    /// The last row per key of the marks in (after, upto], oldest mark first; value None: the row was removed.
    pub fn changelog(&self, after: u64, upto: u64) -> Result<Records, RecordsError> {
        let chosen = || self.layers.iter().filter(|layer| layer.mark > after && layer.mark <= upto);
        let (rows, bytes) = chosen().fold((0, 0), |sum, layer| (sum.0 + layer.dirty.len(), sum.1 + layer.bytes.len()));
        let mut out = Records::with_capacity(rows, bytes + 24 * rows);
        for layer in chosen() {
            for (index, dirty) in layer.dirty.iter().enumerate() {
                let key = self.slots[dirty.slot as usize].key();
                if (dirty.superseded_by == 0 || dirty.superseded_by > upto) && !self.is_hidden(key) {
                    let row = layer.row(index as u32);
                    out.push(Some(key), row, -1, -1)?;
                    if row.is_none() && self.fence > 0 {
                        out.push_header(FENCE_HEADER, Some(&self.fence.to_le_bytes()))?;
                    }
                }
            }
        }
        Ok(out)
    }

    fn is_hidden(&self, key: &[u8]) -> bool {
        self.hides_partition && key == PARTITION_KEY
    }

    /// Folds all layers up to a mark. A table that is not resident gives the rows that the store must now write.
    pub fn commit(&mut self, upto: u64) -> Result<Records, RecordsError> {
        self.commits += 1;
        let mut out = Records::new();
        for index in std::mem::take(&mut self.restored) {
            let slot = &self.slots[index as usize];
            out.push(Some(slot.key()), slot.row(), -1, -1)?;
        }
        while self.layers.front().is_some_and(|layer| layer.mark <= upto) {
            let Some(layer) = self.layers.pop_front() else { break };
            for (index, dirty) in layer.dirty.iter().enumerate() {
                let slot = &mut self.slots[dirty.slot as usize];
                if slot.pending == (Version { mark: layer.mark, index: index as u32 }) {
                    slot.pending = Version::NONE;
                }
                if dirty.superseded_by != 0 && dirty.superseded_by <= upto {
                    continue;
                }
                slot.folded = self.commits;
                let row = layer.row(index as u32);
                let unused = row.is_none() && slot.pending == Version::NONE;
                self.set_committed(dirty.slot, row);
                if !self.resident {
                    let key = self.slots[dirty.slot as usize].key();
                    if !self.is_hidden(key) {
                        out.push(Some(key), row, -1, -1)?;
                    }
                } else if unused {
                    self.remove(dirty.slot);
                }
            }
            self.keep_arena(layer.bytes);
        }
        Ok(out)
    }

    /// Drops every uncommitted version. Marks go on: one that was given out never names anything else.
    pub fn drop_pending(&mut self) {
        while !self.layers.is_empty() {
            self.drop_newest();
        }
    }

    /// Takes the newest [`Table::begin`] back, mark included: a call that failed leaves nothing behind.
    pub fn revert(&mut self) {
        self.drop_newest();
        self.last_mark -= 1;
    }

    fn drop_newest(&mut self) {
        let Some(layer) = self.layers.pop_back() else { return };
        for dirty in &layer.dirty {
            let before = self.layer_at(dirty.previous.mark);
            if let Some(before) = before {
                self.layers[before].dirty[dirty.previous.index as usize].superseded_by = 0;
            }
            let slot = &mut self.slots[dirty.slot as usize];
            slot.pending = if before.is_some() { dirty.previous } else { Version::NONE };
            if self.resident && before.is_none() && slot.row().is_none() {
                self.remove(dirty.slot);
            }
        }
        self.tombstones = self.tombstones.saturating_add_signed(-layer.tombstones);
        for (deleted_at_ms, index) in layer.due {
            if self.slots[index as usize].row().and_then(deleted_at) == Some(deleted_at_ms) {
                self.queue.insert((deleted_at_ms, index));
            }
        }
        self.keep_arena(layer.bytes);
    }

    fn keep_arena(&mut self, mut arena: Vec<u8>) {
        if self.spare.len() < SPARE_MAX && arena.capacity() <= SPARE_BYTES_MAX {
            arena.clear();
            self.spare.push(arena);
        }
    }

    // Tombstones ------------------------------------------------------------------------------------------------------

    /// Removes rows of tombstones made at or before `until_ms`, at most `count`, under the newest mark; how many.
    pub fn expire(&mut self, until_ms: u64, count: usize) -> usize {
        let mut removed = 0;
        for _ in 0..count {
            let Some(due) = self.queue.first().copied().filter(|(at_ms, _)| *at_ms <= until_ms) else { break };
            self.queue.pop_first();
            if let Some(layer) = self.layers.back_mut() {
                layer.due.push(due);
            }
            // The key may have come back since, or have been deleted once more, in a call that is not committed yet.
            let (deleted_at_ms, index) = due;
            if self.newest(index).and_then(deleted_at) == Some(deleted_at_ms) {
                let epoch =
                    self.newest(index).map_or(Ok(0), |row| version(row).map(|(order, _)| order.epoch)).unwrap_or(0);
                self.raise_epoch_floor(epoch);
                let key = Box::from(self.slots[index as usize].key());
                self.write(Place { hash: 0, slot: Some(index) }, &key, None);
                removed += 1;
            }
        }
        removed
    }

    /// What commits moved in the tombstones that a store holds, for its own queue of them: the key, its deleted-at as the
    /// timestamp, and a value where it was made, none where it is gone. Given once (not resident only).
    pub fn take_moved(&mut self) -> Result<Records, RecordsError> {
        let mut out = Records::new();
        for moved in std::mem::take(&mut self.moved) {
            let value = moved.is_made.then_some(&[][..]);
            out.push(Some(&moved.key), value, moved.deleted_at_ms as i64, -1)?;
        }
        Ok(out)
    }

    // Rows from outside -----------------------------------------------------------------------------------------------

    /// Forgets committed rows that a store holds (not resident only): all but those of the last commit.
    pub fn evict(&mut self) {
        if self.resident {
            return;
        }
        for index in 0..self.slots.len() as u32 {
            let slot = &self.slots[index as usize];
            let idle = slot.pending == Version::NONE && (slot.folded == 0 || slot.folded < self.commits);
            if slot.key_len > 0 && idle && is_row(slot.key()) {
                self.remove(index);
            }
        }
    }

    /// Gives a row the store holds, or None: the store has none. A key that is here already keeps what it has.
    pub fn load(&mut self, key: &[u8], row: Option<&[u8]>) -> Result<(), RowError> {
        check(key, row)?;
        let place = self.find(key);
        if place.slot.is_none() {
            let index = self.create(place.hash, key);
            self.requeue(index, row);
            self.hold(index, row);
        }
        Ok(())
    }

    /// One changelog record, written under `fence`: the highest fence of a key wins, then the highest [`Order`], of equals
    /// the later; None removes.
    pub fn restore(&mut self, key: &[u8], row: Option<&[u8]>, fence: u32) -> Result<Restored, RowError> {
        check(key, row)?;
        let came = row.filter(|_| is_row(key)).map(version).transpose()?;
        self.restore_version(key, row, came.map(|(order, _)| order), fence)
    }

    /// The same for a row whose order is known.
    pub fn restore_version(
        &mut self,
        key: &[u8],
        row: Option<&[u8]>,
        came: Option<Order>,
        fence: u32,
    ) -> Result<Restored, RowError> {
        let place = self.find(key);
        let held = place.slot.and_then(|slot| self.slots[slot as usize].row());
        let mut restored = Restored::Taken;
        if let Some(held) = held.filter(|_| is_row(key)) {
            let (held, held_fence) = version(held)?;
            if fence < held_fence {
                return Ok(Restored::Fenced);
            }
            match came {
                Some(came) if came < held && fence == held_fence => return Ok(Restored::Older),
                Some(came) if came < held => restored = Restored::Corrected(held),
                Some(_) => {}
                None => self.raise_epoch_floor(held.epoch),
            }
        }
        if row.is_none() && place.slot.is_none() {
            return Ok(Restored::Taken);
        }
        let index = place.slot.unwrap_or_else(|| self.create(place.hash, key));
        let before = self.slots[index as usize].row().is_some_and(is_tombstone);
        self.count_tombstones(before, row.is_some_and(is_tombstone));
        self.set_committed(index, row);
        if !self.resident {
            let folded = std::mem::replace(&mut self.slots[index as usize].folded, self.commits + 1);
            if folded <= self.commits {
                self.restored.push(index);
            }
        } else if row.is_none() && self.slots[index as usize].pending == Version::NONE {
            self.remove(index);
        }
        Ok(restored)
    }

    /// Committed row of a key.
    pub fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.slots[self.find(key).slot? as usize].row()
    }

    /// Keys with a committed row; the schema record and the partition record are none.
    pub fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.slots.iter().filter(|slot| slot.row().is_some()).map(Slot::key).filter(|key| is_row(key))
    }
}

/// Whether an entity's row lies under a key, and not what the table keeps beside the rows.
fn is_row(key: &[u8]) -> bool {
    !key.starts_with(RESERVED_PREFIX)
}

fn check(key: &[u8], row: Option<&[u8]>) -> Result<(), RowError> {
    match row {
        Some([]) => Err(RowError::Damaged { bytes: 0 }),
        Some(row) if is_row(key) => version(row).map(|_| ()),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::row::{schema_record, Header, Stamp};

    const KEY: &[u8] = b"key";

    fn row(epoch: u64, revision: u64, message: &[u8]) -> Vec<u8> {
        let (mut header, mut bytes) = (Header::new(epoch, 1), Vec::new());
        (header.revision, header.offset) = (revision, revision as i64);
        header.write_live(message, &Stamp::default(), &mut bytes);
        bytes
    }

    fn tombstone(epoch: u64, deleted_at_ms: u64) -> Vec<u8> {
        let (mut header, mut bytes) = (Header::new(epoch, 1), Vec::new());
        header.write_tombstone(deleted_at_ms, &Stamp::default(), &mut bytes);
        bytes
    }

    fn put(table: &mut Table, key: &[u8], row: Option<&[u8]>) {
        let place = table.find(key);
        table.write(place, key, row);
    }

    fn newest<'a>(table: &'a Table, key: &[u8]) -> Option<&'a [u8]> {
        table.find(key).slot.and_then(|slot| table.newest(slot))
    }

    fn pairs(records: &Records) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
        let owned = |record: crate::records::Record<'_>| {
            (record.key().unwrap_or_default().to_vec(), record.value().map(<[u8]>::to_vec))
        };
        records.iter().map(owned).collect()
    }

    #[test]
    fn versions_of_one_mark_overwrite_each_other_and_later_marks_hide_earlier_ones() {
        let mut table = Table::new(true);
        let (short, long, last) = (row(1, 1, b"a"), row(1, 2, b"longer"), row(1, 3, b"b"));
        let first = table.begin(0);
        put(&mut table, KEY, Some(&short));
        put(&mut table, KEY, Some(&long));
        assert_eq!((1, Some(long.as_slice())), (table.changed(), newest(&table, KEY)));
        let second = table.begin(0);
        put(&mut table, KEY, Some(&last));
        assert_eq!(Some(last.as_slice()), newest(&table, KEY));
        assert_eq!(None, table.get(KEY));

        let expected = |row: &[u8]| vec![(KEY.to_vec(), Some(row.to_vec()))];
        assert_eq!(expected(&long), pairs(&table.changelog(0, first).unwrap()));
        assert_eq!(expected(&last), pairs(&table.changelog(first, second).unwrap()));
        assert_eq!(expected(&last), pairs(&table.changelog(0, second).unwrap()));

        table.commit(first).unwrap();
        assert_eq!((Some(long.as_slice()), Some(last.as_slice())), (table.get(KEY), newest(&table, KEY)));
        table.commit(second).unwrap();
        assert_eq!((Some(last.as_slice()), 1), (table.get(KEY), table.len()));
        assert_eq!(0, table.changelog(0, second).unwrap().len());
    }

    #[test]
    fn an_abort_drops_everything_uncommitted_and_nothing_else() {
        let mut table = Table::new(true);
        let (kept, lost) = (row(1, 1, b"kept"), row(1, 2, b"lost"));
        let mark = table.begin(0);
        put(&mut table, KEY, Some(&kept));
        table.commit(mark).unwrap();
        for _ in 0..2 {
            table.begin(0);
            put(&mut table, KEY, Some(&lost));
            put(&mut table, b"new", Some(&lost));
        }
        table.drop_pending();
        assert_eq!((Some(kept.as_slice()), None), (newest(&table, KEY), newest(&table, b"new")));
        assert_eq!((1, None), (table.len(), table.find(b"new").slot));
        assert!(table.begin(0) > mark + 2, "marks are never given out twice");
    }

    #[test]
    fn reverting_a_call_brings_back_the_version_of_the_mark_before() {
        let mut table = Table::new(true);
        let (before, failed, after) = (row(1, 1, b"before"), row(1, 2, b"failed"), row(1, 2, b"after"));
        let first = table.begin(0);
        put(&mut table, KEY, Some(&before));
        table.begin(0);
        put(&mut table, KEY, Some(&failed));
        put(&mut table, b"new", Some(&failed));
        table.revert();
        assert_eq!((Some(before.as_slice()), None), (newest(&table, KEY), newest(&table, b"new")));
        assert_eq!(1, table.changelog(0, first).unwrap().len());
        let second = table.begin(0);
        assert_eq!(first + 1, second);
        put(&mut table, KEY, Some(&after));
        table.commit(second).unwrap();
        assert_eq!(Some(after.as_slice()), table.get(KEY));
    }

    #[test]
    fn a_removed_row_is_null_in_the_changelog_and_leaves_no_slot() {
        let mut table = Table::new(true);
        table.restore(KEY, Some(&row(1, 1, b"x")), 0).unwrap();
        let bytes = table.bytes;
        let mark = table.begin(0);
        put(&mut table, KEY, None);
        assert_eq!(None, newest(&table, KEY));
        assert_eq!(vec![(KEY.to_vec(), None)], pairs(&table.changelog(0, mark).unwrap()));
        table.commit(mark).unwrap();
        assert_eq!((0, 0, None), (table.len(), table.bytes, table.find(KEY).slot));
        table.restore(KEY, Some(&row(2, 1, b"x")), 0).unwrap();
        assert_eq!((1, bytes, 1), (table.len(), table.bytes, table.slots.len()));
    }

    #[test]
    fn a_row_removed_under_one_mark_and_created_under_the_next_survives_both_commits() {
        let mut table = Table::new(true);
        let again = row(2, 1, b"again");
        table.restore(KEY, Some(&row(1, 1, b"x")), 0).unwrap();
        let first = table.begin(0);
        put(&mut table, KEY, None);
        let second = table.begin(0);
        put(&mut table, KEY, Some(&again));
        table.commit(first).unwrap();
        assert_eq!((None, Some(again.as_slice())), (table.get(KEY), newest(&table, KEY)));
        table.commit(second).unwrap();
        assert_eq!((Some(again.as_slice()), 1), (table.get(KEY), table.len()));
    }

    #[test]
    fn tombstones_expire_when_due_at_most_so_many_at_once_and_return_with_an_abort() {
        let mut table = Table::new(true);
        for (at, key) in [(10, b"a"), (20, b"b"), (30, b"c")] {
            table.restore(key, Some(&tombstone(at, at)), 0).unwrap();
        }
        table.restore(b"b", Some(&row(20, 9, b"came back")), 0).unwrap();
        table.begin(0);
        assert_eq!(1, table.expire(30, 1));
        assert_eq!(None, newest(&table, b"a"));
        table.drop_pending();
        let mark = table.begin(0);
        assert_eq!(1, table.expire(29, 10));
        assert_eq!(0, table.expire(29, 10));
        assert_eq!(1, table.expire(30, 10));
        table.commit(mark).unwrap();
        assert_eq!((vec![b"b".as_slice()], 30), (table.keys().collect::<Vec<_>>(), table.epoch_floor()));
    }

    #[test]
    fn the_queue_has_an_entry_per_tombstone_however_often_its_key_was_deleted() {
        let mut table = Table::new(true);
        for at in 0..1_000 {
            let mark = table.begin(0);
            put(&mut table, KEY, Some(&row(1, 2 * at + 1, b"x")));
            put(&mut table, KEY, Some(&tombstone(1, at)));
            if at % 3 == 0 {
                table.drop_pending();
            } else {
                table.commit(mark).unwrap();
            }
        }
        assert_eq!((vec![(998, 0)], 1), (table.queue.iter().copied().collect::<Vec<_>>(), table.tombstones()));
        let before = table.nbytes();
        for at in 0..1_000u64 {
            table.restore(&at.to_le_bytes(), Some(&tombstone(1, at)), 0).unwrap();
        }
        assert_eq!((1_001, 1_001), (table.queue.len(), table.tombstones()));
        assert!(table.nbytes() > before + 1_000 * (8 + 52 + ALLOCATION_BYTES + QUEUED_BYTES));
        table.restore(KEY, Some(&row(2, 1, b"back")), 0).unwrap();
        table.restore(&7u64.to_le_bytes(), None, 0).unwrap();
        assert_eq!((999, 999), (table.queue.len(), table.tombstones()));
    }

    #[test]
    fn tombstones_are_counted_with_what_is_not_committed_and_without_what_was_dropped() {
        let mut table = Table::new(true);
        table.restore(b"a", Some(&tombstone(1, 5)), 0).unwrap();
        let first = table.begin(0);
        put(&mut table, KEY, Some(&tombstone(1, 6)));
        put(&mut table, b"a", Some(&row(1, 2, b"back")));
        let second = table.begin(0);
        put(&mut table, b"b", Some(&tombstone(1, 7)));
        put(&mut table, b"a", Some(&tombstone(1, 8)));
        assert_eq!(3, table.tombstones());
        table.revert();
        assert_eq!(1, table.tombstones());
        table.commit(first).unwrap();
        assert_eq!((1, second), (table.tombstones(), table.begin(0)));
        put(&mut table, KEY, None);
        assert_eq!(0, table.tombstones());
        table.drop_pending();
        assert_eq!((1, 1), (table.tombstones(), table.queue.len()));
    }

    #[test]
    fn a_store_is_told_what_moved_in_its_tombstones() {
        let mut table = Table::new(false);
        let moved = |table: &mut Table| -> Vec<(Vec<u8>, i64, bool)> {
            let records = table.take_moved().unwrap();
            let one = |record: crate::records::Record<'_>| {
                (record.key().unwrap().to_vec(), record.timestamp_ms(), record.value().is_some())
            };
            records.iter().map(one).collect()
        };
        table.set_tombstones(2);
        table.load(b"a", Some(&tombstone(1, 5))).unwrap();
        table.load(b"b", Some(&tombstone(1, 6))).unwrap();
        table.load(KEY, None).unwrap();
        let mark = table.begin(0);
        assert_eq!(1, table.expire(5, 10));
        put(&mut table, KEY, Some(&tombstone(1, 7)));
        put(&mut table, b"b", Some(&tombstone(1, 6)));
        assert_eq!(2, table.tombstones());
        table.commit(mark).unwrap();
        let key = KEY.to_vec();
        assert_eq!(vec![(b"a".to_vec(), 5, false), (key.clone(), 7, true)], moved(&mut table));
        assert!(moved(&mut table).is_empty(), "told once");
        table.restore(KEY, Some(&tombstone(2, 9)), 0).unwrap();
        table.commit(mark).unwrap();
        assert_eq!(vec![(key.clone(), 7, false), (key, 9, true)], moved(&mut table));
        table.evict();
        table.commit(mark).unwrap();
        table.evict();
        assert_eq!((0, 2), (table.queue.len(), table.tombstones()), "what is in the store only is counted");
    }

    #[test]
    fn restore_keeps_the_highest_epoch_revision_and_offset_and_null_removes() {
        let mut table = Table::new(true);
        let (low, high, other) = (row(1, 9, b"low"), row(2, 1, b"high"), row(2, 1, b"later"));
        for row in [&low, &high, &low] {
            table.restore(KEY, Some(row), 0).unwrap();
        }
        assert_eq!(Some(high.as_slice()), table.get(KEY));
        table.restore(KEY, Some(&other), 0).unwrap();
        assert_eq!(Some(other.as_slice()), table.get(KEY));
        table.restore(KEY, None, 0).unwrap();
        table.restore(b"never there", None, 0).unwrap();
        assert_eq!((None, 0, 2, 0), (table.get(KEY), table.len(), table.epoch_floor(), table.index.len()));
        table.restore(SCHEMA_KEY, Some(&schema_record(b"fields")), 0).unwrap();
        assert_eq!((0, 0), (table.len(), table.keys().count()));
        assert_eq!(Err(RowError::Format { came: 9 }), table.restore(KEY, Some(&[9; 60]), 0));
        assert_eq!(Err(RowError::Damaged { bytes: 0 }), table.restore(KEY, Some(&[]), 0));
    }

    #[test]
    fn a_table_over_a_store_returns_what_to_write_and_keeps_it_until_the_next_commit() {
        let mut table = Table::new(false);
        let (old, new) = (row(1, 1, b"old"), row(1, 2, b"new"));
        table.load(KEY, Some(&old)).unwrap();
        table.load(b"absent", None).unwrap();
        table.load(KEY, Some(&new)).unwrap();
        assert_eq!(Some(old.as_slice()), newest(&table, KEY), "a key that is here keeps what it has");
        let mark = table.begin(0);
        put(&mut table, KEY, Some(&new));
        table.evict();
        assert_eq!((true, None), (table.find(KEY).slot.is_some(), table.find(b"absent").slot));
        assert_eq!(vec![(KEY.to_vec(), Some(new.clone()))], pairs(&table.commit(mark).unwrap()));
        table.evict();
        assert!(table.find(KEY).slot.is_some(), "the store may still be writing");
        table.commit(mark).unwrap();
        table.evict();
        assert_eq!((None, 0, 0), (table.find(KEY).slot, table.len(), table.bytes));
    }

    #[test]
    fn a_table_over_a_store_returns_restored_rows_with_the_next_commit() {
        let mut table = Table::new(false);
        let (old, new) = (row(1, 1, b"old"), row(1, 2, b"new"));
        table.load(KEY, Some(&new)).unwrap();
        table.load(b"gone", Some(&old)).unwrap();
        table.restore(KEY, Some(&old), 0).unwrap();
        table.restore(b"gone", None, 0).unwrap();
        table.restore(b"other", Some(&old), 0).unwrap();
        let written = pairs(&table.commit(0).unwrap());
        assert_eq!(vec![(b"gone".to_vec(), None), (b"other".to_vec(), Some(old))], written);
    }

    /// The key of eight bytes whose XXH3-64 without a seed is `hash`: the algorithm's steps, each taken back.
    fn key_of(hash: u64) -> [u8; 8] {
        const INVERSE: u64 = 0x02ab_9c72_0d10_24ad; // of XXH3's multiplier, modulo 2^64
        const SECRET: u64 = 0xc73a_b174_c5ec_d5a2; // what of its public secret goes into eight bytes
        let mixed = (hash ^ (hash >> 28) ^ (hash >> 56)).wrapping_mul(INVERSE);
        let mut mixed = (mixed ^ ((mixed >> 35) + 8)).wrapping_mul(INVERSE);
        (0..63).for_each(|_| mixed ^= mixed.rotate_left(49) ^ mixed.rotate_left(24));
        (mixed ^ SECRET).rotate_left(32).to_le_bytes()
    }

    #[test]
    fn keys_chosen_to_fall_together_do_not_where_the_seed_is_not_known() {
        let chosen: Vec<_> = (1..=1_000).map(|high: u64| key_of(high << 32 | 0x1234_5678)).collect();
        assert!(chosen.iter().all(|key| crate::digest(key) as u32 == 0x1234_5678), "the keys are chosen well");
        for (seed, places) in [(0, 1), (1, 1_000), (u64::MAX / 3, 1_000)] {
            let mut table = Table::new(true).seeded(seed);
            for key in &chosen {
                table.restore(key, Some(&row(1, 1, b"x")), 0).unwrap();
            }
            let hashes: std::collections::HashSet<u32> = table.index.iter().map(|probe| probe.hash).collect();
            assert_eq!(places, hashes.len());
        }
    }

    #[test]
    fn drops_are_counted_in_a_row_and_a_write_starts_anew() {
        let mut table = Table::new(true);
        table.begin(0);
        put(&mut table, KEY, Some(&row(1, 1, b"x")));
        let slot = table.find(KEY).slot.unwrap();
        assert_eq!((1, 2), (table.count_drop(slot), table.count_drop(slot)));
        put(&mut table, KEY, Some(&row(1, 2, b"x")));
        assert_eq!(1, table.count_drop(slot));
    }
}
