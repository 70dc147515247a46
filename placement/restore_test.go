package placement

import "io"

// restore replaces the state by an image, as raftnode does when it has arrived.
func restore(m *Machine, src io.Reader) error {
	staged, err := m.Stage(src)
	if err != nil {
		return err
	}
	return staged.Install()
}
