package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A frame is a record in a segment:
//
//	4 bytes  mark
//	4 bytes  length of the record, little-endian like the other numbers
//	8 bytes  when it was written, in nanoseconds since 1970
//	4 bytes  CRC-32C of length, time and record
//	...      the record
//
// The mark contains bytes that no JSON text contains, so the next frame can be found behind one that is damaged.
const (
	headerSize = 20
	mark       = "\xfbU\xff\xf5"
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func appendFrame(to []byte, record []byte, nanos int64) []byte {
	start := len(to)
	to = append(to, mark...)
	to = binary.LittleEndian.AppendUint32(to, uint32(len(record)))
	to = binary.LittleEndian.AppendUint64(to, uint64(nanos))
	sum := crc32.Update(crc32.Checksum(to[start+4:], castagnoli), castagnoli, record)
	to = binary.LittleEndian.AppendUint32(to, sum)
	return append(to, record...)
}

type frameState int

const (
	whole   frameState = iota
	short              // whole so far, but more must follow
	damaged            // whatever follows
)

// frame is a record as it was read.
type frame struct {
	record []byte // shares memory with what it was read from
	nanos  int64
	size   int
}

// readFrame reads the frame at the start of data.
func readFrame(data []byte) (frame, frameState) {
	if n := min(len(data), len(mark)); string(data[:n]) != mark[:n] {
		return frame{}, damaged
	}
	if len(data) < headerSize {
		return frame{}, short
	}
	length := int64(binary.LittleEndian.Uint32(data[4:]))
	if length > MaxRecord {
		return frame{}, damaged
	}
	size := headerSize + int(length)
	if len(data) < size {
		return frame{}, short
	}
	record := data[headerSize:size:size]
	sum := crc32.Update(crc32.Checksum(data[4:headerSize-4], castagnoli), castagnoli, record)
	if sum != binary.LittleEndian.Uint32(data[headerSize-4:]) {
		return frame{}, damaged
	}
	return frame{record: record, nanos: int64(binary.LittleEndian.Uint64(data[8:])), size: size}, whole
}

// nextMark is how far behind the start of data the next frame may begin, beyond the first byte. If there is no mark, it
// is len(data), less what may be the start of one.
func nextMark(data []byte) int {
	if at := bytes.Index(data[1:], []byte(mark)); at >= 0 {
		return at + 1
	}
	for n := len(mark) - 1; n > 0; n-- {
		if len(data) > n && bytes.HasSuffix(data, []byte(mark[:n])) {
			return len(data) - n
		}
	}
	return len(data)
}

// scan counts the frames that are whole, and returns where the last of them ends.
func scan(data []byte) (records uint64, end int64) {
	for at := 0; at < len(data); {
		f, state := readFrame(data[at:])
		if state != whole {
			at += nextMark(data[at:])
			continue
		}
		records++
		at += f.size
		end = int64(at)
	}
	return records, end
}

// position is how far the destination has got.
type position struct {
	Segment uint64 // the number of the segment's first record
	Offset  int64  // in the segment
	Record  uint64 // the number of the next record
}

// slot is a position on disk, little-endian, followed by its CRC-32C. The file has two slots, written in turn, so that
// one of them is whole whenever the process ends. It is overwritten in place, which also works on a full disk.
type slot struct {
	Mark       [len(mark)]byte
	Generation uint64
	position
}

const slotSize = 40

func encodeSlot(generation uint64, p position) []byte {
	s := slot{[len(mark)]byte([]byte(mark)), generation, p}
	data, _ := binary.Append(make([]byte, 0, slotSize), binary.LittleEndian, s) // fails only for fields without a fixed size
	return binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
}

// decodeSlots returns the later of the slots that are whole, and the zero position if none is.
func decodeSlots(data []byte) (generation uint64, p position) {
	for ; len(data) >= slotSize; data = data[slotSize:] {
		sum := binary.LittleEndian.Uint32(data[slotSize-4:])
		var s slot
		if _, err := binary.Decode(data[:slotSize-4], binary.LittleEndian, &s); err != nil || string(s.Mark[:]) != mark ||
			crc32.Checksum(data[:slotSize-4], castagnoli) != sum {
			continue
		}
		if s.Generation > generation {
			generation, p = s.Generation, s.position
		}
	}
	return generation, p
}
