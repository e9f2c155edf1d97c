//! Products of small whole numbers, sixteen lanes of four at a time.

/// Sixteen lanes of four bytes: a row of weights in each lane.
pub const BYTES: usize = 64;

/// Integer arithmetic of an instruction set. A value proves that the CPU has it.
pub trait Bytes: Copy {
    /// Rows of inputs whose sums fit the registers, beside a quad of weights: 4 or 8.
    const TILE: usize;
    /// Sixteen lanes of four bytes.
    type B: Copy;
    /// Sums of products that still fit sixteen bits, in whatever lanes.
    type Short: Copy;
    /// Sixteen lanes of i32.
    type Long: Copy;

    /// No products.
    fn short(self) -> Self::Short;
    /// Sixteen zeros.
    fn long(self) -> Self::Long;
    /// Reads bytes.
    fn bytes(self, from: &[u8; BYTES]) -> Self::B;
    /// The low four bits of each byte.
    fn low(self, a: Self::B) -> Self::B;
    /// The high four bits of each byte.
    fn high(self, a: Self::B) -> Self::B;
    /// `a`, with a further bit from bit `quad` of `plane`: the fifth.
    fn with_fifth(self, a: Self::B, plane: Self::B, quad: usize) -> Self::B;
    /// `a`, with two further bits from the bits `2 × pair` and next of `plane`: the fifth and
    /// sixth.
    fn with_sixth(self, a: Self::B, plane: Self::B, pair: usize) -> Self::B;
    /// Adds the products of each lane's four unsigned weights with four signed inputs. The sum of
    /// any two neighbouring products, over all calls, must fit sixteen bits.
    fn dot(self, sum: Self::Short, weights: Self::B, x: [i8; 4]) -> Self::Short;
    /// Adds short sums to long ones.
    fn widen(self, total: Self::Long, sum: Self::Short) -> Self::Long;
    /// Adds the products of signed weights with inputs, none of which is −128.
    fn dot_signed(self, total: Self::Long, weights: Self::B, x: [i8; 4]) -> Self::Long;
}
