/** The entry of a worker thread: tinypool calls the default export once for each file. */
export { stageWal as default } from './staging.ts';
