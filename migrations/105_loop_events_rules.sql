-- 105: see 101.
-- squawk-ignore-file ban-drop-constraint
ALTER TABLE loop_events
    DROP CONSTRAINT IF EXISTS chk_loop_events_type,
    DROP CONSTRAINT IF EXISTS chk_loop_events_data,
    DROP CONSTRAINT IF EXISTS chk_loop_events,
    ADD CONSTRAINT chk_loop_events CHECK (loop_is_event(event_type, event_data)) NOT VALID;
