-- What decides about shares besides weights.

-- What happens to requests that would wait long; null = the default.
ALTER TABLE tenants ADD COLUMN brownout TEXT CHECK (brownout IN ('allow', 'never', 'reject'));

-- What a model's tokens weigh, in thousandths; null = the default. A cached input token counts as a fraction of another.
ALTER TABLE models ADD COLUMN input_weight_milli INTEGER CHECK (input_weight_milli BETWEEN 0 AND 1000000);
ALTER TABLE models ADD COLUMN output_weight_milli INTEGER CHECK (output_weight_milli BETWEEN 0 AND 1000000);
ALTER TABLE models ADD COLUMN cached_weight_milli INTEGER CHECK (cached_weight_milli BETWEEN 0 AND 1000);
-- The backends order what waits by `priority`: requests get one.
ALTER TABLE models ADD COLUMN sends_priority INTEGER NOT NULL DEFAULT 0 CHECK (sends_priority IN (0, 1));
