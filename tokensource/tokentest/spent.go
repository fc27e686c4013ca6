package tokentest

import "time"

// minSweep prevents a sweep of a small memory for each new id.
const minSweep = 64

// A spentIDs remembers the jti of each JWT that is valid once, until the JWT is too
// old. So its size stays bounded however long the server runs.
type spentIDs struct {
	until   map[string]time.Time
	sweepAt int
}

func newSpentIDs() spentIDs {
	return spentIDs{until: make(map[string]time.Time), sweepAt: minSweep}
}

// spend returns false for an id that was spent before. From until on, the JWT must be
// refused because of its age.
func (s *spentIDs) spend(id string, until time.Time) bool {
	if _, spent := s.until[id]; spent {
		return false
	}
	if len(s.until) >= s.sweepAt {
		s.sweep()
	}
	s.until[id] = until
	return true
}

// sweep is due again when the remaining ids have doubled, which spreads its cost.
func (s *spentIDs) sweep() {
	now := time.Now()
	for id, until := range s.until {
		if !now.Before(until) {
			delete(s.until, id)
		}
	}
	s.sweepAt = max(minSweep, 2*len(s.until))
}
