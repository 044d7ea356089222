package spool

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
)

// A frame is a record in a segment:
//
//	4 bytes  mark
//	4 bytes  length of the record, little-endian as are the others
//	8 bytes  when it was written, in nanoseconds since 1970
//	4 bytes  CRC-32C of length, time and record
//	...      the record
//
// The mark holds bytes that no JSON text holds, so the next frame is found
// behind one that is damaged.
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
	short              // whole so far, if more follows
	damaged            // whatever follows
)

// frame is a record as it was read.
type frame struct {
	record []byte // shares memory with what it was read from
	nanos  int64
	size   int
}

// readFrame reads the frame at the start of data. No record is longer than most.
func readFrame(data []byte, most int) (frame, frameState) {
	if n := min(len(data), len(mark)); string(data[:n]) != mark[:n] {
		return frame{}, damaged
	}
	if len(data) < headerSize {
		return frame{}, short
	}
	length := int64(binary.LittleEndian.Uint32(data[4:]))
	if length > int64(most) {
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

// nextMark is how far behind the start of data a frame may begin, beyond the
// first byte; len(data) if nowhere, less what may be the start of a mark.
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

// position is how far the destination has got.
type position struct {
	segment uint64 // the number of the segment's first record
	offset  int64  // in the segment
	record  uint64 // the number of the next record
}

// The file of the position has two slots, written in turn and each with its own
// sum, so one of them is whole whenever the process ends. It is
// overwritten in place, which works on a full disk, too.
const slotSize = 40

func encodeSlot(generation uint64, p position) []byte {
	slot := make([]byte, 0, slotSize)
	slot = append(slot, mark...)
	slot = binary.LittleEndian.AppendUint64(slot, generation)
	slot = binary.LittleEndian.AppendUint64(slot, p.segment)
	slot = binary.LittleEndian.AppendUint64(slot, uint64(p.offset))
	slot = binary.LittleEndian.AppendUint64(slot, p.record)
	return binary.LittleEndian.AppendUint32(slot, crc32.Checksum(slot, castagnoli))
}

// decodeSlots returns the later of the slots that are whole, and the zero position
// if none is.
func decodeSlots(data []byte) (generation uint64, p position) {
	for len(data) >= slotSize {
		slot := data[:slotSize]
		data = data[slotSize:]
		sum := binary.LittleEndian.Uint32(slot[slotSize-4:])
		if string(slot[:4]) != mark || crc32.Checksum(slot[:slotSize-4], castagnoli) != sum {
			continue
		}
		if g := binary.LittleEndian.Uint64(slot[4:]); g > generation {
			generation = g
			p.segment = binary.LittleEndian.Uint64(slot[12:])
			p.offset = int64(binary.LittleEndian.Uint64(slot[20:]))
			p.record = binary.LittleEndian.Uint64(slot[28:])
		}
	}
	return generation, p
}
