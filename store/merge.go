package store

import (
	"bytes"
	"errors"

	"github.com/quorate-db/quorate/store/engine"
)

// iterSource opens iterators over one state of the engine.
type iterSource interface {
	NewIter(lower, upper []byte) (engine.Iterator, error)
}

// sameView is an iterSource over the state that an iterator shows.
type sameView struct{ it engine.Iterator }

func (s sameView) NewIter(lower, upper []byte) (engine.Iterator, error) {
	it, err := s.it.Clone()
	if err != nil {
		return nil, err
	}
	it.SetBounds(lower, upper)
	return it, nil
}

// source is a space that holds a part of a table. suffix is a key behind the table
// byte; those that are not kept are as if they were not there.
type source struct {
	space uint64
	keep  func(suffix []byte) bool
}

// merged walks a table that lies in several spaces as if it lay in one: in the
// order of the suffixes, each once, taken from the first source that has it.
type merged struct {
	parts   []mergedPart
	at      int // the part under the position
	skipped int // entries that were not kept
}

type mergedPart struct {
	it   engine.Iterator
	keep func(suffix []byte) bool
	ok   bool // it is on an entry that is kept
}

// openMerged opens a walk over the suffixes [lower, upper); without upper to the
// end of the table. It must be closed.
func openMerged(src iterSource, sources []source, table byte, lower, upper []byte) (*merged, error) {
	m := &merged{parts: make([]mergedPart, 0, len(sources))}
	for _, s := range sources {
		end := tablePrefix(nil, s.space, table+1)
		if upper != nil {
			end = append(tablePrefix(nil, s.space, table), upper...)
		}
		it, err := src.NewIter(append(tablePrefix(nil, s.space, table), lower...), end)
		if err != nil {
			return nil, closeWith(m, err)
		}
		m.parts = append(m.parts, mergedPart{it: it, keep: s.keep})
	}
	return m, nil
}

func (m *merged) First() bool {
	for i := range m.parts {
		p := &m.parts[i]
		p.ok = p.it.First()
		m.settle(p)
	}
	return m.choose()
}

// Next goes past the suffix under the position, in all sources that have it.
func (m *merged) Next() bool {
	for i := range m.parts {
		if p := &m.parts[i]; i != m.at && p.ok && bytes.Equal(p.suffix(), m.Suffix()) {
			p.ok = p.it.Next()
			m.settle(p)
		}
	}
	p := &m.parts[m.at]
	p.ok = p.it.Next()
	m.settle(p)
	return m.choose()
}

// settle moves a part to the next entry that is kept.
func (m *merged) settle(p *mergedPart) {
	for p.ok && !p.keep(p.suffix()) {
		m.skipped++
		p.ok = p.it.Next()
	}
}

func (m *merged) choose() bool {
	m.at = -1
	for i := range m.parts {
		if p := &m.parts[i]; p.ok && (m.at < 0 || bytes.Compare(p.suffix(), m.Suffix()) < 0) {
			m.at = i
		}
	}
	return m.at >= 0
}

func (p *mergedPart) suffix() []byte { return p.it.Key()[headerBytes:] }

// Key gives the whole engine key at the position, Suffix what follows the table.
func (m *merged) Key() []byte            { return m.parts[m.at].it.Key() }
func (m *merged) Suffix() []byte         { return m.parts[m.at].suffix() }
func (m *merged) Value() ([]byte, error) { return m.parts[m.at].it.Value() }

// content gives the checked content at the position.
func (m *merged) content() ([]byte, error) {
	value, err := m.Value()
	if err != nil {
		return nil, err
	}
	return unseal(m.Key(), value)
}

// holders calls visit with the index of every source that has the suffix at the
// position.
func (m *merged) holders(visit func(i int)) {
	for i := range m.parts {
		if p := &m.parts[i]; i == m.at || p.ok && bytes.Equal(p.suffix(), m.Suffix()) {
			visit(i)
		}
	}
}

func (m *merged) Error() error {
	for i := range m.parts {
		if err := m.parts[i].it.Error(); err != nil {
			return err
		}
	}
	return nil
}

func (m *merged) Close() error {
	var errs []error
	for i := range m.parts {
		errs = append(errs, m.parts[i].it.Close())
	}
	return errors.Join(errs...)
}
