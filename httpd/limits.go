package httpd

import (
	"unicode/utf8"

	"github.com/quorate-db/quorate/kv"
)

// getLimits serves every limit that a client can run into.
func (s *Server) getLimits(x *exchange) error {
	if err := x.plain(); err != nil {
		return err
	}
	l := &s.opts.Limits
	return x.reply(map[string]int64{
		"key_bytes_min":               kv.KeyBytesMin,
		"key_bytes_max":               kv.KeyBytesMax,
		"value_bytes_max":             kv.ValueBytesMax,
		"content_type_bytes_max":      kv.ContentTypeBytesMax,
		"raw_body_bytes_max":          kv.RawBodyBytesMax,
		"json_body_bytes_max":         kv.JSONBodyBytesMax,
		"header_bytes_max":            kv.HeaderBytesMax,
		"command_bytes_max":           kv.CommandBytesMax,
		"ops_max":                     kv.OpsMax,
		"scan_items_default":          kv.ScanItemsDefault,
		"scan_items_max":              kv.ScanItemsMax,
		"scan_bytes_max":              kv.ScanBytesMax,
		"query_ranges_max":            kv.QueryRangesMax,
		"query_bytes_max":             kv.QueryBytesMax,
		"condition_tags_max":          tagsMax,
		"idempotency_key_bytes_max":   kv.IdempotencyKeyBytesMax,
		"request_id_window_ms":        kv.RequestIDWindow.Milliseconds(),
		"request_timeout_default_ms":  kv.RequestTimeoutDefault.Milliseconds(),
		"request_timeout_max_ms":      kv.RequestTimeoutMax.Milliseconds(),
		"retention_default_ms":        kv.RetentionDefault.Milliseconds(),
		"ttl_max_ms":                  kv.TTLMax.Milliseconds(),
		"replication_factor_max":      kv.ReplicationFactorMax,
		"dead_grace_min_ms":           kv.DeadGraceMin.Milliseconds(),
		"dead_grace_max_ms":           kv.DeadGraceMax.Milliseconds(),
		"split_bytes_min":             kv.SplitBytesMin,
		"snapshot_rate_min":           kv.SnapshotRateMin,
		"moves_per_node_max":          kv.MovesPerNodeMax,
		"moves_per_cluster_max":       kv.MovesPerClusterMax,
		"zone_bytes_max":              kv.ZoneBytesMax,
		"events_default":              kv.EventsDefault,
		"events_max":                  kv.EventsMax,
		"audit_default":               kv.AuditDefault,
		"audit_max":                   kv.AuditMax,
		"tokens_max":                  kv.TokensMax,
		"grants_max":                  kv.GrantsMax,
		"token_name_bytes_max":        kv.TokenNameBytesMax,
		"token_prefix_bytes_max":      kv.TokenPrefixBytesMax,
		"token_rate_max":              kv.TokenRateMax,
		"access_stale_after_ms":       kv.AccessStaleAfter.Milliseconds(),
		"requests_in_flight_max":      int64(l.DataInFlight),
		"control_in_flight_max":       int64(l.ControlInFlight),
		"streams_in_flight_max":       int64(l.StreamsInFlight),
		"body_bytes_in_flight_max":    l.BodyBytesInFlight,
		"answer_bytes_in_flight_max":  l.AnswerBytesInFlight,
		"probes_in_flight_max":        int64(l.ProbesInFlight),
		"connections_max":             int64(l.Connections),
		"connections_reserve":         int64(l.ConnectionsReserve),
		"connections_per_client_max":  int64(l.ConnectionsPerClient),
		"requests_per_client_max":     int64(l.DataPerClient),
		"streams_per_client_max":      int64(l.StreamsPerClient),
		"body_bytes_per_client_max":   l.BodyBytesPerClient,
		"answer_bytes_per_client_max": l.AnswerBytesPerClient,
		"large_bytes_per_client_rate": l.LargeBytesPerClient,
	})
}

// textOrBytes gives bytes as text if they are, as themselves if not.
func textOrBytes(b []byte) (text *string, other []byte) {
	if !utf8.Valid(b) {
		return nil, b
	}
	s := string(b)
	return &s, nil
}
