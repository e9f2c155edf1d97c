//! The rows of one pass, and their attention to keys and values in the pool.

#[cfg(feature = "cuda")]
use candle_core::Device;
use candle_core::{Result, Tensor};

use super::kv_pool::{Arrangement, LayerMemory, Pool, PooledCache};
use crate::model::generate::decode::{SequenceCache, Span};
use crate::model::ops::composed::attention::{Padded, SCORE_BYTES};
use crate::model::ops::composed::matmul;
use crate::model::ops::types::Layout;
use crate::model::spec::Spec;

/// The tokens of a pass, one per row, and the location of what each attends to.
pub(super) struct Step {
    pub ids: Vec<u32>,
    pub positions: Vec<u32>,
    /// Rows whose logits are needed, `(wanted)`.
    pub wanted: Tensor,
    layout: Layout,
    reading: Reading,
}

/// How a pass reads and writes the pool.
enum Reading {
    #[cfg(feature = "cuda")]
    Paged(Paged),
    Rows(Gathered),
}

/// The kernel sees every row as a sequence that ends with it.
#[cfg(feature = "cuda")]
struct Paged {
    /// `(rows)`, i64
    slots: Tensor,
    /// `(rows, blocks)`, u32
    tables: Tensor,
    /// `(rows)`, u32
    lengths: Tensor,
    longest: usize,
}

/// Keys and values are gathered into rows, the sequences padded to one length.
struct Gathered {
    /// `(rows, kv_heads × head_dim)`: each value's row in the pool.
    slots: Tensor,
    groups: Vec<Group>,
    /// The index of each row among those of the groups; `None` if they are in order.
    back: Option<Tensor>,
}

/// Sequences with the same number of rows in the pass.
struct Group {
    batch: usize,
    queries: usize,
    keys: usize,
    /// `(batch × queries)`: rows of the pass.
    rows: Tensor,
    /// `(batch × keys)`: rows of the pool; any for padding.
    slots: Tensor,
    /// `(batch × kv_heads, 1, queries, keys)`: −∞ for what a query must not attend to. One for each
    /// window size of the layers.
    hidden: Vec<(Option<usize>, Tensor)>,
}

/// One sequence of a pass.
#[derive(Clone, Copy)]
struct Sequence<'a> {
    cache: &'a PooledCache,
    /// Its first row.
    row: usize,
    queries: usize,
}

impl Sequence<'_> {
    fn keys(self) -> usize {
        self.cache.len() + self.queries
    }
}

impl Step {
    pub fn new(spans: &[Span<'_, PooledCache>], pool: &Pool, spec: &Spec) -> Result<Self> {
        let memory = &pool.layer(0).keys;
        let device = memory.device();
        let (mut ids, mut positions, mut wanted) = (Vec::new(), Vec::new(), Vec::new());
        let mut sequences = Vec::with_capacity(spans.len());
        for span in spans {
            let (row, queries, first) = (ids.len(), span.tokens.len(), span.cache.len());
            sequences.push(Sequence { cache: &*span.cache, row, queries });
            ids.extend_from_slice(span.tokens);
            positions.extend((first..first + queries).map(|position| position as u32));
            wanted.extend(span.logits.then_some((ids.len() - 1) as u32));
        }
        let layout = spec.layout(Vec::new());
        let reading = match Arrangement::on(device, spec) {
            #[cfg(feature = "cuda")]
            Arrangement::Paged => Reading::Paged(Paged::new(&sequences, device)?),
            Arrangement::Rows => {
                Reading::Rows(Gathered::new(&sequences, &layout, &spec.windows(), memory)?)
            }
        };
        Ok(Self { ids, positions, wanted: Tensor::new(wanted, device)?, layout, reading })
    }

    /// Writes `k` and `v`, `(rows, kv_heads × head_dim)`, to the pool.
    pub fn write(&self, memory: &LayerMemory, k: &Tensor, v: &Tensor) -> Result<()> {
        match &self.reading {
            #[cfg(feature = "cuda")]
            Reading::Paged(paged) => {
                let heads =
                    |x: &Tensor| x.reshape((x.dim(0)?, self.layout.kv_heads, self.layout.head_dim));
                mistralrs_paged_attn::reshape_and_cache(
                    &heads(k)?,
                    &heads(v)?,
                    None,
                    None,
                    &memory.keys,
                    &memory.values,
                    &paged.slots,
                )
            }
            Reading::Rows(gathered) => {
                memory.keys.scatter_set(&gathered.slots, k, 0)?;
                memory.values.scatter_set(&gathered.slots, v, 0)
            }
        }
    }

    /// Attention of `q` `(rows, heads × head_dim)`, in that shape.
    pub fn attend(
        &self,
        q: &Tensor,
        pool: &Pool,
        layer: usize,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let memory = pool.layer(layer);
        match &self.reading {
            #[cfg(feature = "cuda")]
            Reading::Paged(paged) => {
                let rows = q.dim(0)?;
                mistralrs_paged_attn::paged_attention(
                    &q.reshape((rows, self.layout.heads, self.layout.head_dim))?,
                    None,
                    None,
                    &memory.keys,
                    &memory.values,
                    &paged.tables,
                    &paged.lengths,
                    None,
                    paged.longest,
                    self.layout.scale,
                    1.0, // no soft cap
                    None,
                )?
                .reshape((rows, self.layout.heads * self.layout.head_dim))
            }
            Reading::Rows(gathered) => {
                let groups = gathered.groups.iter();
                let y = groups.map(|group| group.attend(q, memory, &self.layout, window));
                let y = Tensor::cat(&y.collect::<Result<Vec<_>>>()?, 0)?;
                match &gathered.back {
                    Some(back) => y.index_select(back, 0),
                    None => Ok(y),
                }
            }
        }
    }
}

#[cfg(feature = "cuda")]
impl Paged {
    fn new(sequences: &[Sequence<'_>], device: &Device) -> Result<Self> {
        let longest = sequences.iter().map(|sequence| sequence.keys()).max().unwrap_or(0);
        let width = longest.div_ceil(super::kv_pool::BLOCK);
        let (mut slots, mut tables, mut lengths) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            let mut table: Vec<u32> = sequence.cache.blocks().take(width).collect();
            table.resize(width, 0);
            for position in sequence.cache.len()..sequence.keys() {
                slots.push(i64::from(sequence.cache.slot(position)));
                tables.extend_from_slice(&table);
                lengths.push(position as u32 + 1);
            }
        }
        let rows = lengths.len();
        Ok(Self {
            slots: Tensor::new(slots, device)?,
            tables: Tensor::from_vec(tables, (rows, width), device)?,
            lengths: Tensor::new(lengths, device)?,
            longest,
        })
    }
}

impl Gathered {
    fn new(
        sequences: &[Sequence<'_>],
        layout: &Layout,
        windows: &[Option<usize>],
        memory: &Tensor,
    ) -> Result<Self> {
        let device = memory.device();
        let mut slots = Vec::new();
        for sequence in sequences {
            let positions = sequence.cache.len()..sequence.keys();
            slots.extend(positions.map(|position| sequence.cache.slot(position)));
        }
        let rows = slots.len();
        let slots = Tensor::from_vec(slots, (rows, 1), device)?;
        let slots = slots.broadcast_as((rows, memory.dim(1)?))?.contiguous()?;

        // Sequences with equally many rows are adjacent, and among them those of similar length.
        let mut order = sequences.to_vec();
        order.sort_by_key(|sequence| (sequence.queries, sequence.keys(), sequence.row));
        let (mut groups, mut rest) = (Vec::new(), &order[..]);
        while let Some(first) = rest.first() {
            let fits = |count: usize| {
                let keys = rest[count - 1].keys();
                let bytes = 4 * count * layout.heads * first.queries * keys;
                rest[count - 1].queries == first.queries && bytes <= SCORE_BYTES
            };
            let count = (2..=rest.len()).take_while(|&count| fits(count)).last().unwrap_or(1);
            groups.push(Group::new(&rest[..count], layout, windows, memory)?);
            rest = &rest[count..];
        }
        let mut back = vec![0; rows];
        let places = order.iter().flat_map(|s| s.row..s.row + s.queries);
        places.enumerate().for_each(|(place, row)| back[row] = place as u32);
        let is_in_order = back.is_sorted();
        let back = (!is_in_order).then(|| Tensor::new(back, device)).transpose()?;
        Ok(Self { slots, groups, back })
    }
}

impl Group {
    /// Of sequences with equally many rows, the longest last.
    fn new(
        sequences: &[Sequence<'_>],
        layout: &Layout,
        windows: &[Option<usize>],
        memory: &Tensor,
    ) -> Result<Self> {
        let device = memory.device();
        let batch = sequences.len();
        let (queries, keys) = sequences.last().map_or((0, 0), |last| (last.queries, last.keys()));
        let (mut rows, mut slots, mut positions) = (Vec::new(), Vec::new(), Vec::new());
        for sequence in sequences {
            rows.extend((sequence.row..sequence.row + queries).map(|row| row as u32));
            let slot = |position| match position < sequence.keys() {
                true => sequence.cache.slot(position),
                false => sequence.cache.slot(0),
            };
            slots.extend((0..keys).map(slot));
            positions.extend((sequence.cache.len()..sequence.keys()).map(|at| at as u32));
        }
        let padded = Padded { layout, batch, queries, keys };
        let hidden = windows.iter().map(|&window| {
            Ok((window, padded.hidden(&positions, window, memory.dtype(), device)?))
        });
        let hidden = hidden.collect::<Result<_>>()?;
        let (rows, slots) = (Tensor::new(rows, device)?, Tensor::new(slots, device)?);
        Ok(Self { batch, queries, keys, rows, slots, hidden })
    }

    fn attend(
        &self,
        q: &Tensor,
        memory: &LayerMemory,
        layout: &Layout,
        window: Option<usize>,
    ) -> Result<Tensor> {
        let Some((_, hidden)) = self.hidden.iter().find(|(of, _)| *of == window) else {
            candle_core::bail!("no layer has a window of {window:?}")
        };
        let Self { batch, queries, keys, .. } = *self;
        let padded = Padded { layout, batch, queries, keys };
        let gather = |x: &Tensor| padded.by_head(&x.index_select(&self.slots, 0)?, keys, 1);
        let (k, v) = (gather(&memory.keys)?, gather(&memory.values)?);
        let q = padded.by_head(&q.index_select(&self.rows, 0)?, queries, layout.group())?;
        let p = padded.probabilities(&q, &k, hidden)?.to_dtype(v.dtype())?;
        padded.by_row(&matmul(&p, &v)?, queries, layout.group())
    }
}
