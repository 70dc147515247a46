package server

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/store/engine"
)

const addressFile = "peers.json"

// addressBook knows where other nodes listen for peers. The meta shard's state
// is the authority; the book keeps the last known addresses on disk, so that a
// restarted node reaches the meta shard at all. Losing the file costs nothing
// but a rejoin through --join.
type addressBook struct {
	fs   engine.FS
	path string
	log  *slog.Logger

	mu    sync.Mutex
	peers map[kv.NodeID]string
}

func openAddressBook(fsys engine.FS, dir string, log *slog.Logger) (*addressBook, error) {
	b := &addressBook{fs: fsys, path: fsys.PathJoin(dir, addressFile), log: log, peers: map[kv.NodeID]string{}}
	data, err := readFile(fsys, b.path)
	if errors.Is(err, fs.ErrNotExist) {
		return b, nil
	}
	if err != nil {
		return nil, err
	}
	var stored map[string]string
	if err := json.Unmarshal(data, &stored); err != nil {
		return nil, fmt.Errorf("%s: %w", b.path, err)
	}
	for text, address := range stored {
		node, err := kv.ParseNodeID(text)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", b.path, err)
		}
		b.peers[node] = address
	}
	return b, nil
}

// lookup gives the address of a node, false if none is known.
func (b *addressBook) lookup(node kv.NodeID) (string, bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	address, ok := b.peers[node]
	return address, ok
}

// learn takes addresses over and saves the book if something changed.
func (b *addressBook) learn(found map[kv.NodeID]string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	changed := false
	for node, address := range found {
		if address != "" && b.peers[node] != address {
			b.peers[node] = address
			changed = true
		}
	}
	if !changed {
		return
	}
	if err := b.saveLocked(); err != nil {
		b.log.Warn("cannot save peer addresses; they will be learned again after a restart", "file", b.path, "err", err)
	}
}

func (b *addressBook) saveLocked() error {
	stored := make(map[string]string, len(b.peers))
	for node, address := range maps.All(b.peers) {
		stored[node.String()] = address
	}
	data, err := json.MarshalIndent(stored, "", "  ")
	if err != nil {
		return err
	}
	return engine.WriteFileSynced(b.fs, b.path, append(data, '\n'))
}
