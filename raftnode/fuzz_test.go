package raftnode

import (
	"bytes"
	"encoding/binary"
	"io"
	"testing"
)

// FuzzSnapshotFile: what is taken for a whole snapshot is one: its magic, its length and
// its checksum hold, and its content is what was written.
func FuzzSnapshotFile(f *testing.F) {
	whole := func(content []byte) []byte {
		data := append([]byte(snapshotMagic), content...)
		data = binary.LittleEndian.AppendUint64(data, uint64(len(content)))
		sum := castagnoli()
		_, _ = sum.Write(data) // never fails
		return binary.LittleEndian.AppendUint32(data, sum.Sum32())
	}
	f.Add(whole([]byte("content")), false)
	f.Add([]byte("content"), true)
	f.Add([]byte{}, true)
	f.Fuzz(func(t *testing.T, data []byte, seal bool) {
		want := data
		if seal {
			data = whole(data)
		}
		content, err := checkSnapshot(bytes.NewReader(data), int64(len(data)))
		if err != nil {
			if seal {
				t.Fatalf("a whole one was refused: %v", err)
			}
			return
		}
		got, err := io.ReadAll(content)
		if err != nil || seal && !bytes.Equal(got, want) || !bytes.Equal(whole(got), data) {
			t.Fatalf("%x: content %x, %v", data, got, err)
		}
	})
}
