package redisstore

import (
	"context"
	"fmt"
	"time"

	"github.com/redis/go-redis/v9"
)

// A ReplicasError says that fewer replicas than [Store.Replicas] have acknowledged a
// write within a second. The server has it nevertheless, and perhaps some replicas.
type ReplicasError struct {
	Acknowledged, Required int
}

// Error tells both numbers.
func (e *ReplicasError) Error() string {
	return fmt.Sprintf("acknowledged by %d replicas within %v, want %d", e.Acknowledged, ackTime, e.Required)
}

const ackTime = time.Second

// write runs a script on a value and its lock. A [ReplicasError] comes beside the answer.
//
// It sends the script itself, not its hash: WAIT speaks of what its own connection has
// written, so both go in one pipeline, which cannot know whether the hash is known.
func (s *Store) write(ctx context.Context, script *redis.Script, name string, args ...any) (any, error) {
	keys := []string{name, name + ":lock"}
	if s.Replicas <= 0 {
		return script.Eval(ctx, s.Client, keys, args...).Result()
	}
	master, err := s.master(ctx, name)
	if err != nil {
		return nil, err
	}
	pipeline := master.Pipeline()
	answer := script.Eval(ctx, pipeline, keys, args...)
	acks := redis.NewIntCmd(ctx, "wait", s.Replicas, ackTime.Milliseconds())
	pipeline.Process(ctx, acks)
	pipeline.Exec(ctx)
	switch {
	case answer.Err() != nil:
		return nil, answer.Err()
	case acks.Err() != nil:
		return answer.Val(), acks.Err()
	case int(acks.Val()) < s.Replicas:
		return answer.Val(), &ReplicasError{int(acks.Val()), s.Replicas}
	}
	return answer.Val(), nil
}

// master returns the client of the server that has name. In a cluster, a pipeline of the
// whole would send WAIT to any server.
func (s *Store) master(ctx context.Context, name string) (*redis.Client, error) {
	if cluster, ok := s.Client.(*redis.ClusterClient); ok {
		return cluster.MasterForKey(ctx, name)
	}
	return s.Client.(*redis.Client), nil
}

// countsReplicas reports whether master knows what to do. A Ring has no replicas.
func (s *Store) countsReplicas() bool {
	switch s.Client.(type) {
	case *redis.Client, *redis.ClusterClient:
		return true
	}
	return false
}
