package peer

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math/rand/v2"
	"runtime"
	"testing"

	"pgregory.net/rapid"

	"github.com/quorate-db/quorate/kv"
)

func parse(data []byte, limit int) (frameHeader, []byte, error) {
	return readFrame(bufio.NewReaderSize(bytes.NewReader(data), 64), limit)
}

func TestFrameRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		h := frameHeader{
			kind:   frameKind(rapid.IntRange(1, int(kindEnd)-1).Draw(t, "kind")),
			method: rapid.Uint16().Draw(t, "method"),
			id:     rapid.Uint64().Draw(t, "id"),
			left:   rapid.Uint32().Draw(t, "left"),
		}
		payload := rapid.SliceOfN(rapid.Byte(), 0, 300).Draw(t, "payload")
		before := rapid.SliceOfN(rapid.Byte(), 0, 30).Draw(t, "before")
		data := appendFrame(bytes.Clone(before), h, payload)[len(before):]
		if len(data) != frameBytes(len(payload)) {
			t.Fatalf("%d bytes, want %d", len(data), frameBytes(len(payload)))
		}
		got, gotPayload, err := parse(data, len(data))
		h.payload = len(payload)
		if err != nil || got != h || !bytes.Equal(payload, gotPayload) {
			t.Fatalf("got %+v %q, %v", got, gotPayload, err)
		}
		// Whatever byte is wrong, it is found.
		data[rapid.IntRange(0, len(data)-1).Draw(t, "at")] ^= byte(rapid.IntRange(1, 255).Draw(t, "flip"))
		if _, _, err := parse(data, len(data)); err == nil {
			t.Fatal("a flipped byte went unseen")
		}
	})
}

// seal gives the frame a valid checksum again.
func seal(data []byte) []byte {
	body := data[:len(data)-4]
	return binary.LittleEndian.AppendUint32(bytes.Clone(body), crc32.Checksum(body, castagnoli))
}

func TestFrameMalformed(t *testing.T) {
	good := func() []byte {
		return appendFrame(nil, frameHeader{kind: kindRequest, method: 3, id: 9, left: 5}, []byte("payload"))
	}
	for name, c := range map[string]struct {
		change func([]byte) []byte
		is     error
	}{
		"nothing":      {func([]byte) []byte { return nil }, io.EOF},
		"half header":  {func(d []byte) []byte { return d[:11] }, io.ErrUnexpectedEOF},
		"header only":  {func(d []byte) []byte { return d[:frameHeaderBytes] }, io.ErrUnexpectedEOF},
		"half payload": {func(d []byte) []byte { return d[:frameHeaderBytes+3] }, io.ErrUnexpectedEOF},
		"no checksum":  {func(d []byte) []byte { return d[:len(d)-2] }, io.ErrUnexpectedEOF},
		"checksum":     {func(d []byte) []byte { d[len(d)-1]++; return d }, errMalformed},
		"kind 0":       {func(d []byte) []byte { d[4] = 0; return seal(d) }, errMalformed},
		"kind unknown": {func(d []byte) []byte { d[4] = byte(kindEnd); return seal(d) }, errMalformed},
		"flags":        {func(d []byte) []byte { d[5] = 1; return seal(d) }, errMalformed},
		"too short":    {func(d []byte) []byte { d[0] = frameLengthMin - 1; return seal(d) }, errMalformed},
		"zero length":  {func(d []byte) []byte { clear(d[:4]); return d }, errMalformed},
		"over limit":   {func(d []byte) []byte { binary.LittleEndian.PutUint32(d, 1000-3); return d }, errMalformed},
		"huge":         {func(d []byte) []byte { binary.LittleEndian.PutUint32(d, 0xffffffff); return d }, errMalformed},
		"an HTTP call": {func([]byte) []byte { return []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n") }, errMalformed},
	} {
		if _, _, err := parse(c.change(good()), 1000); !errors.Is(err, c.is) {
			t.Errorf("%s: got %v, want %v", name, err, c.is)
		}
	}
	if _, _, err := parse(good(), 1000); err != nil {
		t.Errorf("unchanged: %v", err)
	}
}

// TestFrameClaimsAllocateLittle: a length alone does not make the reader
// allocate it.
func TestFrameClaimsAllocateLittle(t *testing.T) {
	data := appendFrame(nil, frameHeader{kind: kindRequest}, make([]byte, 100))
	binary.LittleEndian.PutUint32(data, kv.FrameBytesMax-4)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for range 10 {
		if _, _, err := parse(data, kv.FrameBytesMax); !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Fatal(err)
		}
	}
	runtime.ReadMemStats(&after)
	if each := (after.TotalAlloc - before.TotalAlloc) / 10; each > 2*frameChunkBytes {
		t.Fatalf("a claim of %d bytes allocated %d", kv.FrameBytesMax, each)
	}
}

// TestFrameNoise reads 200,000 frames that are noise, or sound ones with a few
// bytes changed, some of them sealed again.
func TestFrameNoise(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	sound := 0
	for range 200_000 {
		var data []byte
		switch rng.IntN(3) {
		case 0:
			data = make([]byte, rng.IntN(200))
			for i := range data {
				data[i] = byte(rng.Uint32())
			}
		default:
			h := frameHeader{kind: frameKind(1 + rng.IntN(int(kindEnd)-1)), method: uint16(rng.Uint32()), id: rng.Uint64()}
			data = appendFrame(nil, h, make([]byte, rng.IntN(100)))
			for range rng.IntN(4) {
				data[rng.IntN(len(data))] = byte(rng.Uint32())
			}
			if rng.IntN(2) == 0 {
				data = seal(data)
			}
		}
		h, payload, err := parse(data, 4096)
		if err == nil {
			sound++
			if h.kind == kindFailure {
				_, _ = decodeFailure(payload)
			}
		} else if payload != nil {
			t.Fatal("an error came with a payload")
		}
	}
	if sound < 10_000 || sound > 190_000 {
		t.Fatalf("%d of 200000 were sound: the noise is none", sound)
	}
}

func FuzzFrame(f *testing.F) {
	f.Add(appendFrame(nil, frameHeader{kind: kindRequest, method: 3, id: 9, left: 5}, []byte("payload")))
	f.Add(appendFrame(nil, frameHeader{kind: kindFailure, id: 1}, encodeFailure(errors.New("x"))))
	f.Add([]byte{frameLengthMin, 0, 0, 0})
	f.Fuzz(func(t *testing.T, data []byte) {
		if len(data) >= frameHeaderBytes+frameTrailerBytes {
			data = seal(data)
		}
		h, payload, err := parse(data, 1<<16)
		if err != nil {
			return
		}
		if h.kind == kindFailure {
			_, _ = decodeFailure(payload)
		}
		if again := appendFrame(nil, h, payload); !bytes.Equal(again, data[:len(again)]) {
			t.Fatalf("%x reads as %x", data, again)
		}
	})
}

func TestFailureRoundTrip(t *testing.T) {
	long := string(bytes.Repeat([]byte("ä"), 1000))
	for _, in := range []error{
		&kv.Error{Code: kv.CodeNotLeader, Outcome: kv.OutcomeNotApplied, Detail: "d", Shard: 1, Leader: 2, Version: 3},
		errors.New("plain"),
		errors.New("not UTF-8: \xff\xfe"),
		kv.Errorf(kv.CodeInvalid, kv.OutcomeNotApplied, "%s", long),
	} {
		out, err := decodeFailure(encodeFailure(in))
		if err != nil || out == nil {
			t.Fatalf("%v: %v", in, err)
		}
		if in := kv.AsError(in); in.Detail != "not UTF-8: \xff\xfe" && kv.CodeOf(out) != in.Code {
			t.Errorf("%v became %v", in, out)
		}
	}
	if _, err := decodeFailure([]byte{0xff}); !errors.Is(err, errMalformed) {
		t.Fatalf("got %v", err)
	}
}
