package placement

import "github.com/quorate-db/quorate/kv/kvpb"

func isOn(node uint64) func(*kvpb.ReplicaDescriptor) bool {
	return func(r *kvpb.ReplicaDescriptor) bool { return r.Node == node }
}

// tester is what helpers need of *testing.T, *testing.F and *rapid.T.
type tester interface {
	Helper()
	Fatal(args ...any)
	Fatalf(format string, args ...any)
}
