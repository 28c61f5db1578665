import { getEnvironmentData } from 'node:worker_threads';
import { usePrograms } from '../compression/running-programs.ts';

/** The entry of a worker thread: tinypool calls the default export once for each file. */
export { stageWal as default } from './staging.ts';

// A compressor that this thread started must not go on when the process ends, and nobody asks the thread then.
const programs = getEnvironmentData('programs');
if (programs instanceof SharedArrayBuffer) usePrograms(programs);
