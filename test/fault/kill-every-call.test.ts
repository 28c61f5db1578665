import { beforeAll, describe, test } from 'vitest';
import { CONFIGURATIONS, STREAMING, streamAfterPromotion } from './fault-home.ts';
import { killAtEveryCall, type Scenario } from './kill-scenarios.ts';
import { requireStrace } from './strace.ts';

beforeAll(requireStrace);

/** No text files: a pass waits a second for them. */
const SCENARIOS: readonly Scenario[] = [
  { from: 'incoming', options: {}, deliver: (fault) => fault.deliverSegments(1, 3) },
  { from: 'streaming', options: STREAMING, deliver: streamAfterPromotion },
];

const CASES = SCENARIOS.flatMap((scenario) => CONFIGURATIONS.map((configuration) => ({ ...scenario, configuration })));

describe.concurrent('archive-wal, killed after every call that changes a file', () => {
  test.each(CASES)('loses nothing, and the next pass heals, $from, $configuration', (scenario) =>
    killAtEveryCall(scenario, scenario.configuration),
  );
});
