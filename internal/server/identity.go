package server

import (
	"crypto/rand"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"sync"

	"github.com/quorate-db/quorate/kv"
	"github.com/quorate-db/quorate/store/engine"
)

// dataFormat is the version of the data directory's layout. A binary refuses a
// directory of a newer one.
const dataFormat = 1

const identityFile = "node.json"

// Identity is who this data directory is, for ever: its node id, minted when
// the directory was first used, and the cluster it belongs to once it does.
// It is safe for concurrent use.
type Identity struct {
	fs   engine.FS
	path string

	mu     sync.Mutex
	record identityRecord
}

type identityRecord struct {
	Format    int    `json:"format"`
	Node      string `json:"node"`
	ClusterID string `json:"cluster_id,omitempty"`
}

// openIdentity reads the identity in dir, or mints one if there is none.
func openIdentity(fsys engine.FS, dir string) (*Identity, error) {
	id := &Identity{fs: fsys, path: fsys.PathJoin(dir, identityFile)}
	data, err := readFile(fsys, id.path)
	if errors.Is(err, fs.ErrNotExist) {
		return id, id.mint()
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &id.record); err != nil {
		return nil, fmt.Errorf("%s: %w", id.path, err)
	}
	if id.record.Format > dataFormat {
		return nil, fmt.Errorf("%s: the data directory has format %d, this binary knows up to %d: use a newer binary",
			id.path, id.record.Format, dataFormat)
	}
	if _, err := kv.ParseNodeID(id.record.Node); err != nil {
		return nil, fmt.Errorf("%s: %w", id.path, err)
	}
	return id, nil
}

func (id *Identity) mint() error {
	var raw [8]byte
	for binary.BigEndian.Uint64(raw[:]) == 0 {
		if _, err := rand.Read(raw[:]); err != nil {
			return fmt.Errorf("mint node id: %w", err)
		}
	}
	id.mu.Lock()
	defer id.mu.Unlock()
	id.record = identityRecord{Format: dataFormat, Node: kv.NodeID(binary.BigEndian.Uint64(raw[:])).String()}
	return id.saveLocked()
}

// Node gives the node id.
func (id *Identity) Node() kv.NodeID {
	id.mu.Lock()
	defer id.mu.Unlock()
	node, err := kv.ParseNodeID(id.record.Node)
	if err != nil {
		panic(err) // checked when it was read
	}
	return node
}

// ClusterID gives the cluster this node belongs to, "" before it joined one.
func (id *Identity) ClusterID() string {
	id.mu.Lock()
	defer id.mu.Unlock()
	return id.record.ClusterID
}

// SetClusterID records the cluster durably. A node never changes clusters.
func (id *Identity) SetClusterID(cluster string) error {
	id.mu.Lock()
	defer id.mu.Unlock()
	if id.record.ClusterID == cluster {
		return nil
	}
	if id.record.ClusterID != "" {
		return fmt.Errorf("this data directory belongs to cluster %s and cannot join %s: use an empty one", id.record.ClusterID, cluster)
	}
	id.record.ClusterID = cluster
	if err := id.saveLocked(); err != nil {
		id.record.ClusterID = ""
		return err
	}
	return nil
}

func (id *Identity) saveLocked() error {
	data, err := json.MarshalIndent(id.record, "", "  ")
	if err != nil {
		return err
	}
	return engine.WriteFileSynced(id.fs, id.path, append(data, '\n'))
}

func readFile(fsys engine.FS, path string) ([]byte, error) {
	f, err := fsys.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(f)
}
