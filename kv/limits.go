package kv

import "time"

// Every limit of the product has its name and its number here, and is served
// at GET /v1/limits. Sizes are bytes.
const (
	KeyBytesMin   = 1
	KeyBytesMax   = 4 << 10
	ValueBytesMax = 4 << 20

	// ContentTypeBytesMax bounds the Content-Type that is stored with a value.
	ContentTypeBytesMax = 255

	// RawBodyBytesMax and JSONBodyBytesMax bound HTTP request bodies before they
	// are parsed.
	RawBodyBytesMax  = ValueBytesMax
	JSONBodyBytesMax = 16 << 20

	// CommandBytesMax bounds the decoded keys and values of one batch or
	// transaction, OpsMax the number of operations and guards in it.
	CommandBytesMax = 8 << 20
	OpsMax          = 1000

	// EntryBytesMax bounds one Raft log entry; EntryGroupBytesMax bounds the
	// commands that share an entry, unless there is only one.
	EntryBytesMax      = CommandBytesMax + 64<<10
	EntryGroupBytesMax = 1 << 20
	EntryCommandsMax   = 512

	// EntriesPerAppendMax is the Raft library's MaxAppendEntries. It counts
	// entries, not bytes, so it is small enough that a frame of the largest
	// entries stays under FrameBytesMax.
	EntriesPerAppendMax = 8

	// FrameBytesMax bounds one frame on the peer port, checked before anything
	// is allocated.
	FrameBytesMax = EntriesPerAppendMax*EntryBytesMax + 1<<20

	// ScanItemsMax and ScanBytesMax bound one page of a scan.
	ScanItemsDefault = 100
	ScanItemsMax     = 10000
	ScanBytesMax     = 8 << 20

	// TTLMax bounds a time to live: 100 years.
	TTLMax = 100 * 365 * 24 * time.Hour

	// RequestTimeoutDefault and RequestTimeoutMax bound a request's deadline.
	RequestTimeoutDefault = 10 * time.Second
	RequestTimeoutMax     = 60 * time.Second

	// RequestIDWindow is how long a shard remembers a request id and its result.
	RequestIDWindow = 10 * time.Minute

	// RetentionDefault is how long old versions of a key are kept.
	RetentionDefault = 10 * time.Minute

	// The HTTP edge. HeaderBytesMax bounds request line and headers: a key of
	// KeyBytesMax takes three times that in a URL, and a scan names several.
	HeaderBytesMax = 64 << 10
	// RequestsInFlightMax bounds data requests at one node, ControlInFlightMax
	// the cluster and health requests beside them, StreamsInFlightMax the scans
	// that stream their range; BodyBytesInFlightMax the bodies that are held.
	RequestsInFlightMax  = 2048
	ControlInFlightMax   = 256
	StreamsInFlightMax   = 64
	BodyBytesInFlightMax = 128 << 20
	// ProbesInFlightMax bounds requests for health and metrics, which have places of
	// their own; AnswerBytesInFlightMax the answers to reads that are held, small ones
	// apart.
	ProbesInFlightMax      = 64
	AnswerBytesInFlightMax = 128 << 20
	// ConnectionsMax bounds the connections of clients to a node, unless it has fewer
	// file descriptors. ConnectionsReserve is beyond, for what is not about keys.
	ConnectionsMax     = 4096
	ConnectionsReserve = 64
	// What one client address may have of these.
	RequestsPerClientMax    = RequestsInFlightMax / 2
	StreamsPerClientMax     = StreamsInFlightMax / 2
	BodyBytesPerClientMax   = BodyBytesInFlightMax / 2
	AnswerBytesPerClientMax = AnswerBytesInFlightMax / 4
	ConnectionsPerClientMax = ConnectionsMax / 4

	// LargeBytesPerProcessor is how many bytes of large bodies and answers one client
	// address has in a second, for each processor of the node, while another address asks
	// for keys. A MiB costs the nodes some milliseconds of processor time, so that is a
	// small part of what they have.
	LargeBytesPerProcessor = 8 << 20

	// IdempotencyKeyBytesMax bounds the Idempotency-Key header.
	IdempotencyKeyBytesMax = 255

	// QueryRangesMax bounds the ranges of one POST /v1/query; its keys are
	// bounded by OpsMax and all that it finds by QueryBytesMax.
	QueryRangesMax = 16
	QueryBytesMax  = 16 << 20

	// ChildStartIndex and ChildStartTerm are the applied record that a shard starts
	// with that was split off. They are above zero, so that a replica without the data
	// cannot be built from the log alone (DESIGN §9).
	ChildStartIndex = 10
	ChildStartTerm  = 1

	// The settings of a cluster (ClusterConfig). Zones are named in them and by nodes.
	ReplicationFactorMax = 7
	DeadGraceMin         = time.Second
	DeadGraceMax         = 24 * time.Hour
	SplitBytesMin        = 64 << 10 // below it a shard would be little but its own bookkeeping
	SnapshotRateMin      = 64 << 10 // slower, and large snapshots would never end
	MovesPerNodeMax      = 64
	MovesPerClusterMax   = 1024
	ZoneBytesMax         = 255

	// Tokens. TokensMax bounds those of a cluster, which every node holds in memory;
	// GrantsMax those of one; TokenRateMax the rate that it can be held to, in
	// requests a second; TokenPrefixBytesMax all prefixes of one together.
	TokensMax           = 4096
	GrantsMax           = 32
	TokenNameBytesMax   = 128
	TokenPrefixBytesMax = 16 << 10
	TokenRateMax        = 1_000_000

	// AccessStaleAfter is how long a node goes by what it knows of tokens without
	// hearing from the meta shard's leader. Then it refuses all of them.
	AccessStaleAfter = 30 * time.Second

	// EventsMax bounds one answer of GET /v1/events.
	EventsDefault = 100
	EventsMax     = 1000

	// AuditMax bounds one answer of GET /v1/audit.
	AuditDefault = 100
	AuditMax     = 1000
)
