// Vite serves the page, and passes on what is for the server: the page has one origin.
const target = "http://localhost:8000";

export default {
  server: {
    proxy: {
      // Objects: with a string alone, Vite changes the header `Host`.
      "/pusher": { target },
      "/app/": { target, ws: true },
      "/messages": { target },
    },
  },
};
